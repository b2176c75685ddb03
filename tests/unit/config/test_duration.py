import pytest

from doorward.config.duration import format_duration, nft_duration, parse_duration_ms, rough_duration
from doorward.errors import InvalidValueError
from tests.support.errors import raises


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("1ms", 1),
        ("500ms", 500),
        ("15s", 15_000),
        ("2m", 120_000),
        ("1h", 3_600_000),
        ("7d", 604_800_000),
        ("90s", 90_000),
    ],
)
def test_parses(text: str, ms: int) -> None:
    assert parse_duration_ms(text) == ms


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (500, "500ms"),
        (1500, "1500ms"),
        (15_000, "15s"),
        (90_000, "90s"),
        (120_000, "2m"),
        (3_600_000, "1h"),
        (86_400_000, "1d"),
    ],
)
def test_formats_in_the_largest_exact_unit(ms: int, text: str) -> None:
    assert format_duration(ms) == text


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (1, "1ms"),
        (1500, "1s500ms"),
        (60 * 86_400_000, "5184000s"),
        (99_999_999_999, "99999999s999ms"),
        (100_000_000_000, "1157d35200s"),
        (2_147_483_647_000, "24855d11647s"),  # the longest in a knockd.conf
    ],
)
def test_nft_numbers_have_at_most_eight_digits(ms: int, text: str) -> None:
    assert nft_duration(ms) == text


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("15", "invalid-duration"),
        ("2y", "invalid-duration"),
        ("0s", "zero-duration"),
    ],
)
def test_rejects_with_a_remedy(text: str, code: str) -> None:
    with raises(InvalidValueError, code):
        parse_duration_ms(text)


@pytest.mark.parametrize(
    "text", ["", "s", "1.5s", "-1s", "15 s", "15S", "1m30s", "\uff11s", "15s\n", "9" * 16 + "s", "x" * 10_000]
)
def test_rejects(text: str) -> None:
    with raises(InvalidValueError, "invalid-duration"):
        parse_duration_ms(text)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (-3.0, "0s"),
        (0.0, "0s"),
        (0.4, "0s"),
        (29.6, "30s"),
        (59.4, "59s"),
        (59.6, "1m"),
        (60.0, "1m"),
        (61.0, "1m 1s"),
        (3599.4, "59m 59s"),
        (3599.6, "1h"),
        (3660.0, "1h 1m"),
        (3659.0, "1h"),
        (86_399.0, "23h 59m"),
        (86_400.0, "1d"),
        (90_000.0, "1d 1h"),
        (365 * 86_400.0, "365d"),
    ],
)
def test_durations_have_at_most_two_units(seconds: float, expected: str) -> None:
    assert rough_duration(seconds) == expected
