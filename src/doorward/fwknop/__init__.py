"""Packets of fwknop's clients, accepted until their users have moved to signed knocks. Pure."""
