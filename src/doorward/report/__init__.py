"""The report page: openings and refusals from the ledger, and the strength of the doors."""
