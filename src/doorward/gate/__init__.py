"""The host's packet filter as doorward keeps it: the table `inet doorward`."""
