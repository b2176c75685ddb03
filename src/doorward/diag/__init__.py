"""What tells an operator how things are: seen from outside, and packet by packet."""
