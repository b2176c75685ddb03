"""`doorward watch` on a terminal: what the daemon tells, as it changes."""
