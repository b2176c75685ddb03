"""`doorward watch` on a terminal: a live view of the daemon's events and counters."""
