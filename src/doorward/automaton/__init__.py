"""Doors compiled once into one finite automaton, and a tracker that runs it. Pure."""
