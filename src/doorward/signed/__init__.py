"""Signed knocks: one UDP packet that proves its sender. Pure: bytes in, decisions out; time is an argument."""
