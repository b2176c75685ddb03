"""What is on the disk stays there: files and names that not even a loss of power takes back (fsync(2))."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import mkstemp
from typing import NamedTuple


class FileOwnership(NamedTuple):
    """Who may read and write a file: its mode, and the numbers of its user and group."""

    mode: int
    user: int
    group: int


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


def read(path: Path) -> str:
    """Read a file that `write` wrote; OSError: it is missing, or a link is in its place."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)  # of a pipe: nothing, at once
    with os.fdopen(handle, encoding="utf-8") as file:
        return file.read()


def write(path: Path, text: str) -> None:
    """Write a file that its user alone may read, in the place of one that is there. OSError: it is not on the disk.

    It is not whole at every moment: write beside the file that is meant, and rename.
    """
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(handle)


def create(path: Path, text: str, access: FileOwnership) -> bool:
    """Write a file, whole and for good, unless one is there already: then False. OSError: it cannot be written."""
    handle, new = mkstemp(prefix=f"{path.name}.", dir=path.parent)  # 0600
    try:
        _write(handle, text, access)
        os.link(new, path)  # unlike a rename it takes nothing's place
    except FileExistsError:
        return False
    finally:
        Path(new).unlink()
    sync(path.parent)
    return True


def replace(path: Path, text: str, access: FileOwnership) -> None:
    """Write a file, whole and permanently, in place of one that may exist. OSError: it cannot be written."""
    handle, new = mkstemp(prefix=f"{path.name}.", dir=path.parent)  # 0600
    try:
        _write(handle, text, access)
        rename(Path(new), path)
    except OSError:
        Path(new).unlink(missing_ok=True)
        raise


def make_folders(folder: Path, mode: int) -> None:
    """Make a folder and those above it, as far as they are missing, for good. OSError: one cannot be made."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    for each in reversed(missing):
        each.mkdir(mode, exist_ok=True)
        sync(each.parent)


def _write(handle: int, text: str, access: FileOwnership) -> None:
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        if (access.user, access.group) != (os.geteuid(), os.getegid()):
            os.chown(handle, access.user, access.group)
        os.fchmod(handle, access.mode)
        file.write(text)
        file.flush()
        os.fsync(handle)
