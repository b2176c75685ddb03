"""The client: knocks, connects and manages hosts.toml."""
