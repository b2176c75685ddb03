"""Rate a configuration: weak sequences, risky settings, keys that may do too much."""
