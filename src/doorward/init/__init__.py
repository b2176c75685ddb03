"""Set up a server: survey the host, choose sequences, write the configuration."""
