"""The daemon's numbers for Prometheus, served by a process of its own."""
