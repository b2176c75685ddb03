"""Packets and captures: bytes to values."""
