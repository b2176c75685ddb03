"""Why a knock did or did not open a door, from the packets. Pure: the automaton is the daemon's own."""
