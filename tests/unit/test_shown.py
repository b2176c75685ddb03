"""The comparison of documented with actual output: `…` matches what it replaces, and nothing else."""

from __future__ import annotations

import pytest

from tests.support.shown import is_shown


@pytest.mark.parametrize(
    ("shown", "printed", "expected"),
    [
        ("a\n", "a", True),
        ("a\n\n", "\na \n", True),
        ("a", "a b", False),
        ("a\nb", "a\n  b", False),
        ("a\nb", "a\n\nb", False),
        ("a\nb", "a b", False),
        # a line of its own: any lines, and whole ones
        ("a\n…\nd", "a\nb\nc\nd", True),
        ("a\n…\nd", "a\nd", True),
        ("a\n…\nd", "a b\nd", False),
        ("a\n…\nd", "a\nc d", False),
        ("a\n…", "a", True),
        ("a\n…", "ab\nc", False),
        ("…\nd", "d", True),
        ("…", "", True),
        # within a line: something in that line
        ("a … d", "a b c d", True),
        ("a … d", "a  d", False),
        ("a … d", "a b\nc d", False),
        ("a…", "a, b", True),
        ("a…", "a", False),
        ("a…", "a\nb", False),
    ],
)
def test_what_is_left_out(shown: str, printed: str, expected: bool) -> None:
    assert is_shown(shown, printed) is expected


def test_what_differs_each_time() -> None:
    assert is_shown("in 45s, … s\n", "in 3s, 1 s\n", {"in 45s": r"in \d+s"})
    assert not is_shown("in 45s", "in no time", {"in 45s": r"in \d+s"})
