"""The knocker's side."""
