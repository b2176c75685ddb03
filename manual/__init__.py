"""Manual pages, made from the command line's own parsers and from docs/: `python -m manual FOLDER`."""
