"""Read and validate configuration files: doorward.toml and knockd.conf."""
