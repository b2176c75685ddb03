"""Escape untrusted text for terminals, logs and TOML. Pure; with `json_form`, the only module that does so."""

from __future__ import annotations

from collections.abc import Iterable

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing and re are as expensive as a knock
    from typing import Any

# C0 with the newline, DEL and C1 control a terminal; the others reorder or break text, and a lone surrogate cannot be
# encoded.
_RANGES = (
    (0, 0x1F), (0x7F, 0x9F), (0x61C, 0x61C), (0x200E, 0x200F), (0x2028, 0x202E), (0x2066, 0x2069), (0xD800, 0xDFFF),
)  # fmt: skip


def _is_command(letter: str) -> bool:
    return any(first <= ord(letter) <= last for first, last in _RANGES)


def visible(text: str) -> str:
    r"""Return the text with each character that controls a terminal replaced by an escape, like \x1b or \n."""
    if text.isprintable():  # none of them is
        return text
    return "".join(letter.encode("unicode_escape").decode() if _is_command(letter) else letter for letter in text)


def printable(text: str, limit: int | None = None) -> str:
    """Return the text, cut to `limit` characters, with "?" for each that is not printable."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:limit])


def visible_in(value: Any) -> Any:
    """Return a decoded JSON value with every string in it escaped."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, list):
        return [visible_in(item) for item in value]
    if isinstance(value, dict):
        return {visible(key): visible_in(item) for key, item in value.items()}
    return value


def toml_list(words: Iterable[str]) -> str:
    """Return a TOML list of strings."""
    return f"[{', '.join(map(toml_text, words))}]"


def toml_text(word: str) -> str:
    """Return a TOML string: JSON's syntax without surrogate pairs, and with DEL escaped."""
    import json

    return json.dumps(word, ensure_ascii=False).replace("\x7f", "\\u007f")
