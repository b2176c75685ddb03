"""What is on the disk stays there: files and names that not even a loss of power takes back (fsync(2))."""

from __future__ import annotations

import os
from pathlib import Path


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's names, are on the disk. OSError: they are not."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def rename(source: Path, destination: Path) -> None:
    """Let a file take another's place, whole or not at all, for good. OSError: it has not."""
    source.replace(destination)
    sync(destination.parent)
