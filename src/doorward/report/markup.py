"""HTML with every value escaped: only `fill` and `join` build markup, from constant templates. Pure."""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Iterable

LONGEST_TEXT = 200  # characters of one value, which may be untrusted input


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


def escape(value: object, longest: int = LONGEST_TEXT) -> str:
    """Return a value as safe text: HTML-escaped, without control or direction characters, and shortened."""
    text = str(value)
    shown = text if len(text) <= longest else text[: longest - 1] + "…"
    return html.escape("".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in shown))


def fill(template: str, *values: object) -> Html:
    """Fill the `{}` of a constant template; values that are not `Html` are escaped."""
    return Html(template.format(*(value if isinstance(value, Html) else escape(value) for value in values)))


def join(parts: Iterable[Html], between: str = "") -> Html:
    """Join markup, with a constant text between the parts."""
    return Html(between.join(parts))


def policy_source(text: str) -> str:
    """Return what admits an inline script or style with this text in a content security policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def untrusted(text: str, longest: int = 64) -> Html:
    """Return a name or address from untrusted input, isolated so that it cannot reorder the text around it."""
    return Html(f"<bdi>{escape(text, longest)}</bdi>")
