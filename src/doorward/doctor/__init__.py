"""Diagnose a host: collect facts, then report lock-out risks and conflicting firewall rules."""
