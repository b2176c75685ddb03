"""Escape untrusted text for terminals, logs and TOML. Pure; the only module that does so."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

# C0 with the newline, DEL and C1 control a terminal; the others reorder or break text, and a lone surrogate cannot be
# encoded.
_COMMANDS = re.compile("[\0-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    r"""Return the text with each character that controls a terminal replaced by an escape, like \x1b or \n."""
    return _COMMANDS.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


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


def json_line(value: object) -> str:
    """Return a value as JSON on one line of printable ASCII."""
    from json import dumps  # imported late: `doorward knock` does not need it

    return dumps(value).replace("\x7f", "\\u007f")


def toml_list(words: Iterable[str]) -> str:
    """Return a TOML list of strings."""
    return f"[{', '.join(map(toml_text, words))}]"


def toml_text(word: str) -> str:
    """Return a TOML string: JSON's syntax without surrogate pairs, and with DEL escaped."""
    import json

    return json.dumps(word, ensure_ascii=False).replace("\x7f", "\\u007f")
