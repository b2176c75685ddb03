"""The pure core: doors to automaton, packets to openings, openings to effects."""
