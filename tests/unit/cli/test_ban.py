"""`doorward ban` on the command line: calls that contradict themselves."""

from __future__ import annotations

import pytest

from doorward.cli import ban
from doorward.cli.main import parse
from doorward.errors import UsageError
from tests.support.errors import raises


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--for", "8h"], "no-address"),
        (["--cut"], "no-address"),
        (["192.0.2.7", "--json"], "json-lists-bans"),
    ],
)
def test_invalid_calls(words: list[str], code: str) -> None:
    with raises(UsageError, code):
        ban.run(parse("ban", words))
