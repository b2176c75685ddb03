"""What would lock the operator out, and what stands in a door's way: facts are gathered, then judged."""
