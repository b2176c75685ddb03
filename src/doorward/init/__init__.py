"""Set up a server: look at the host, choose sequences, write the configuration."""
