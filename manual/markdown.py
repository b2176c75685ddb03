"""A page from a document in docs/: headings, paragraphs, lists, tables and code, as they are used there. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import takewhile

from manual import groff

_FENCE = "```"
_ASIDE = re.compile(r" \(\[[^\]]+\]\([^)]+\)\)")  # a link in parentheses leads nowhere on a page


def of_document(text: str) -> str:
    """Return the sections of a document; its title, and the text before the first heading, become DESCRIPTION."""
    return groff.heading("description") + "".join(_blocks(_ASIDE.sub("", text).splitlines()))


def _blocks(lines: list[str]) -> Iterator[str]:
    place = 0
    while place < len(lines):
        length, block = _block(lines[place:])
        place += length
        yield block


def _block(lines: list[str]) -> tuple[int, str]:
    """Set the block that begins here; return the number of its lines, too."""
    first = lines[0]
    if not first.strip() or first.startswith("# "):
        return 1, ""
    if first.startswith("#"):
        return 1, groff.heading(first.lstrip("#").strip())
    if first.startswith(_FENCE):
        body = list(takewhile(lambda one: not one.startswith(_FENCE), lines[1:]))
        return len(body) + 2, groff.verbatim(body)
    if first.startswith("|"):
        rows = list(takewhile(lambda one: one.startswith("|"), lines))
        return len(rows), _table([_cells(row) for row in rows])
    if first.startswith("    "):
        body = list(takewhile(lambda one: one.startswith("    "), lines))
        return len(body), groff.verbatim(one[4:] for one in body)
    body = [first, *takewhile(_goes_on, lines[1:])]
    text = groff.marked(" ".join(one.strip() for one in body).removeprefix("- "))
    return len(body), groff.bullet(text) if first.startswith("- ") else groff.paragraph(text)


def _goes_on(one: str) -> bool:
    return bool(one.strip()) and not one.startswith(("#", "|", "- ", _FENCE))


def _cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip().strip("|").replace(r"\|", "\0").split("|")]


def _table(rows: list[list[str]]) -> str:
    """Set a table as a list: the first column with type, range and default, and what the other columns say."""
    header, _, *body = rows
    return "".join(_row(header, row) for row in body)


def _row(header: list[str], row: list[str]) -> str:
    cells = {name: cell.replace("\0", "|") for name, cell in zip(header, row, strict=True)}
    term = groff.marked(cells.pop(header[0]))
    if "default" in cells:
        kind = ": ".join(filter(None, (cells.pop("type"), cells.pop("range"))))
        term += groff.marked(f" ({kind}; default: {cells.pop('default')})")
    said = [cell if name == "meaning" else f"{name}: {cell}" for name, cell in cells.items()]
    return groff.entry(term, groff.marked("; ".join(said)))
