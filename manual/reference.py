"""The page in docs/reference/ that is made from the program."""

from __future__ import annotations

from pathlib import Path

from manual import commands
from manual.share import use_standard_directories


def texts() -> dict[str, str]:
    """Make each page's text, by its name."""
    use_standard_directories()
    return {"commands.md": commands.document()}


def write(directory: Path) -> None:
    """Write them all into a directory."""
    for name, text in texts().items():
        (directory / name).write_text(text, encoding="utf-8")
