"""Signed knocks: one UDP packet that proves who sends it. Pure: bytes in, decisions out; time is an argument."""
