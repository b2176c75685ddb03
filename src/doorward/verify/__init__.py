"""Scan a host from outside, with nmap, and verify that a knock opens."""
