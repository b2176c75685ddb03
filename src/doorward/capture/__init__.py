"""Bytes that the kernel or a file hands over, turned into values."""
