"""The drop-in for knockd 0.8: its configuration, its log lines, its commands; the automaton underneath."""
