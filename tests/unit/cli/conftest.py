"""Fixtures of the client commands' tests."""

from tests.support.nobody import nobodys_keys as nobodys_keys
