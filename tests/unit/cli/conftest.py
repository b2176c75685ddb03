"""What tests of the client's commands share."""

from tests.support.nobody import nobodys_keys as nobodys_keys
