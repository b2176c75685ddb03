"""The report: what the ledger holds, and how strong the doors are, as one page."""
