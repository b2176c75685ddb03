"""What mkdocs does before it reads a page (mkdocs.yml names this file under `hooks`). Pure."""

from __future__ import annotations

import re
from typing import Any

from doorward import __version__

_ITEM = re.compile(r"\d+\. ")
_INSIDE = "   "


def on_config(config: Any) -> None:
    """Show the version with the link to the repository."""
    config.repo_name = f"doorward {__version__}"


def on_page_markdown(markdown: str, **_: object) -> str:
    """Write numbered lists as Python-Markdown wants them, where GitHub is content with less.

    The content of an item is indented by four, not three, and an item after several paragraphs needs an empty line.
    """
    lines, inside, is_loose = list[str](), False, False
    for line in markdown.split("\n"):
        if _ITEM.match(line):
            if is_loose:
                lines.append("")
            inside, is_loose = True, False
        elif line.strip():
            inside = inside and line.startswith(_INSIDE)
            is_loose = inside and (is_loose or not lines[-1])
        lines.append(f" {line}" if inside and line.startswith(_INSIDE) else line)
    return "\n".join(lines)
