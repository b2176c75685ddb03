"""A first configuration: the host is looked at, sequences are chosen, files are written, and clients are told."""
