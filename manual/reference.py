"""The pages in docs/reference/ that are made from the program."""

from __future__ import annotations

from pathlib import Path

from manual import commands, settings
from manual.share import forget_folders


def texts() -> dict[str, str]:
    """Make each page's text, by its name."""
    forget_folders()
    return {"commands.md": commands.document(), "configuration.md": settings.document()}


def write(folder: Path) -> None:
    """Write them all into a folder."""
    for name, text in texts().items():
        (folder / name).write_text(text, encoding="utf-8")
