"""Network namespaces: the demonstration, and the lab of the tests."""
