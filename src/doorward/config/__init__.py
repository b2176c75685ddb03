"""What the operator writes: the schema and the dialects that it is read from."""
