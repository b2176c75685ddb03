"""Text for numbers."""

from __future__ import annotations

import pytest

from doorward.report.words import count, short


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (999, "999"), (1000, "1k"), (1999, "1.9k"), (9999, "9.9k"), (123_456, "123k"), (1_200_000, "1.2M")],
)
def test_short_numbers(number: int, text: str) -> None:
    assert short(number) == text


def test_numbers_with_their_nouns() -> None:
    assert [count(number, "door", "doors") for number in (0, 1, 2, 1234)] == [
        "0 doors", "1 door", "2 doors", "1,234 doors",
    ]  # fmt: skip
