"""Port knocking decided in the kernel."""

__version__ = "0.1.0"
