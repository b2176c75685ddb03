"""doorward beside knockd, measured on this machine: `python -m bench`, inside network namespaces only."""
