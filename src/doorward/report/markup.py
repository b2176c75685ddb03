"""HTML in which every value is escaped: only `fill` and `join` make markup, from constant templates. Pure."""

from __future__ import annotations

import html
from collections.abc import Iterable

LONGEST_TEXT = 200  # letters of one value: nobody reads more, and a stranger may have chosen them


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


def escape(value: object, longest: int = LONGEST_TEXT) -> str:
    """Make any value harmless: no markup, no letters that cannot be seen or that turn a line around, not long."""
    text = str(value)
    shown = text if len(text) <= longest else text[: longest - 1] + "…"
    return html.escape("".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in shown))


def fill(template: str, *values: object) -> Html:
    """Fill a constant template's `{}`; what is no markup is escaped."""
    return Html(template.format(*(value if isinstance(value, Html) else escape(value) for value in values)))


def join(parts: Iterable[Html], between: str = "") -> Html:
    """Put markup together, with a constant text between the parts."""
    return Html(between.join(parts))


def untrusted(text: str, longest: int = 64) -> Html:
    """Show a name or an address that somebody else chose; its letters cannot change the order of those around it."""
    return Html(f"<bdi>{escape(text, longest)}</bdi>")
