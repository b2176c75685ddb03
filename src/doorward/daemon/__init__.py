"""The process that loads the gate, records what happens and answers questions."""
