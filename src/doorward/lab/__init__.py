"""Network namespaces for `doorward lab` and for the tests."""
