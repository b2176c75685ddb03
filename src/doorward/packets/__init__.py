"""Packet and capture file formats: bytes to values."""
