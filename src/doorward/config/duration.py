"""Parse and format durations: a whole number and a unit, like `500ms`, `15s`, `2m`, `1h` or `7d`."""

from __future__ import annotations

from doorward.errors import InvalidValueError

UNITS_MS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}  # the largest first
_NFT_LIMIT = 100_000_000  # nft accepts numbers of at most eight digits
_MOST_DIGITS = 15  # beyond any limit, yet no huge number
_DIGITS = "0123456789"


def parse_duration_ms(text: str) -> int:
    """Parse a duration greater than zero, in milliseconds. Raises ValueError with fault and remedy."""
    unit = text.lstrip(_DIGITS)
    digits = text.removesuffix(unit)
    if not 1 <= len(digits) <= _MOST_DIGITS or unit not in UNITS_MS:
        raise InvalidValueError("invalid-duration", f"invalid duration {_shown(text)}; {_remedy(text)}")
    duration_ms = int(digits) * UNITS_MS[unit]
    if duration_ms == 0:
        raise InvalidValueError("zero-duration", f'the duration {text!r} is zero; write a longer one, like "15s"')
    return duration_ms


def format_duration(ms: int) -> str:
    """Return a duration in the largest unit that represents it exactly."""
    unit, unit_ms = next((unit, unit_ms) for unit, unit_ms in UNITS_MS.items() if ms % unit_ms == 0)
    return f"{ms // unit_ms}{unit}"


def rough_duration(seconds: float) -> str:
    """Return a duration in its two largest units, rounded to seconds: `2h 5m`, `45s`."""
    parts, rest = list[tuple[int, str]](), max(0, round(seconds))
    for unit in "dhms":
        count, rest = divmod(rest, UNITS_MS[unit] // 1000)
        if count or parts:
            parts.append((count, unit))
    return " ".join(f"{count}{unit}" for count, unit in parts[:2] if count) or "0s"


def nft_duration(ms: int) -> str:
    """Return a duration in nft's syntax; days are used only where the seconds would have too many digits."""
    days, below_days = divmod(ms, UNITS_MS["d"]) if ms >= _NFT_LIMIT * 1000 else (0, ms)
    seconds, rest = divmod(below_days, 1000)
    return (f"{days}d" if days else "") + (f"{seconds}s" if seconds else "") + (f"{rest}ms" if rest or not ms else "")


def _remedy(text: str) -> str:
    if 1 <= len(text) <= _MOST_DIGITS and not text.strip(_DIGITS):
        return f'write the unit too: "{text}s"'
    return 'write a whole number and ms, s, m, h or d, like "15s"'


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:40] + "…")
