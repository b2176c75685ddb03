"""Text in Markdown that means what it says. Pure."""

from __future__ import annotations

_ESCAPES = str.maketrans({letter: f"\\{letter}" for letter in "\\*<>"})


def cell(text: str) -> str:
    """Keep what would end a table's cell."""
    return text.replace("|", r"\|")


def marked(text: str) -> str:
    """Keep what Markdown would take for its own; code in backticks stays code."""
    parts = text.replace("``", "`").split("`")
    return "`".join(part if place % 2 else part.translate(_ESCAPES) for place, part in enumerate(parts))
