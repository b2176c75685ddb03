"""Explain from packets why a knock did or did not open a door. Pure; runs the daemon's own automaton."""
