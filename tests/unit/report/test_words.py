"""Text for numbers and durations."""

from __future__ import annotations

import pytest

from doorward.report.words import count, short, span


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (999, "999"), (1000, "1k"), (1999, "1.9k"), (9999, "9.9k"), (123_456, "123k"), (1_200_000, "1.2M")],
)
def test_short_numbers(number: int, text: str) -> None:
    assert short(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "under 1 s"), (0.2, "under 1 s"), (1, "1 s"), (59.4, "59 s"), (90, "1 min 30 s"), (3600, "1 h"),
        (8000, "2 h 13 min"), (86_400, "1 day"), (14.5 * 86_400, "14 days 12 h"),
    ],
)  # fmt: skip
def test_durations(seconds: float, text: str) -> None:
    assert span(seconds) == text


def test_numbers_with_their_nouns() -> None:
    assert [count(number, "door", "doors") for number in (0, 1, 2, 1234)] == [
        "0 doors", "1 door", "2 doors", "1,234 doors",
    ]  # fmt: skip
