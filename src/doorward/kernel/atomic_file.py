"""Durable file writes: files and names that survive a power failure (fsync(2))."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

# Windows has neither, and runs no part of doorward that uses them.
_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
_NONBLOCK = getattr(os, "O_NONBLOCK", 0)  # a pipe reads as empty, without blocking
_BINARY = getattr(os, "O_BINARY", 0)  # Windows alone has it


class FileOwnership(NamedTuple):
    """The mode of a file, and its user and group IDs."""

    mode: int
    user: int
    group: int


def ownership(path: Path) -> FileOwnership | None:
    """Return the mode and owner of a file, for the one that replaces it; None if it is missing."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return FileOwnership(status.st_mode & 0o7777, status.st_uid, status.st_gid)


def sync(path: Path) -> None:
    """Wait until a file's content, or a directory's entries, are on the disk. OSError: they are not."""
    if sys.platform == "win32":
        return  # it has no such call for directories, and the client syncs nothing else by name
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def rename(source: Path, destination: Path) -> None:
    """Rename a file, atomically and durably; it replaces `destination`. OSError: it failed."""
    source.replace(destination)
    sync(destination.parent)


def read(path: Path) -> str:
    """Return the text of a file that `write` wrote; OSError: it is missing, or is a symbolic link."""
    handle = os.open(path, os.O_RDONLY | _NOFOLLOW | _NONBLOCK)
    with os.fdopen(handle, encoding="utf-8") as file:
        return file.read()


def write(path: Path, text: str) -> None:
    """Write a file that only its user may read; it replaces an existing one. OSError: it is not on the disk.

    Not atomic: write to a temporary name in the same directory, then `rename`.
    """
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _NOFOLLOW, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(handle)


def create(path: Path, text: str, access: FileOwnership) -> bool:
    """Create a file, atomically and durably; return False if it exists. OSError: it cannot be written."""
    handle, new = _create_beside(path)
    try:
        fill(handle, text.encode(), access)
        os.link(new, path)  # unlike a rename it never replaces a file
    except FileExistsError:
        return False
    finally:
        new.unlink()
    sync(path.parent)
    return True


def replace(path: Path, raw: bytes, access: FileOwnership | None = None) -> None:
    """Write a file, atomically and durably; it replaces an existing one. OSError: it cannot be written.

    Without `access`, only this process's user may read it.
    """
    handle, new = _create_beside(path)
    try:
        fill(handle, raw, access)
        rename(new, path)
    except OSError:
        new.unlink(missing_ok=True)
        raise


def _create_beside(path: Path) -> tuple[int, Path]:
    """Create a file in the same directory that only its user may read; return a descriptor and its path.

    As mkstemp does: but to import `tempfile` takes longer than all else here, at each start of a program.
    """
    new = path.with_name(f"{path.name}.{os.urandom(8).hex()}")
    return os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | _NOFOLLOW | _BINARY, 0o600), new


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Lock a directory, so that concurrent writers do not lose each other's changes; not on Windows."""
    if fcntl is None or sys.platform == "win32":
        yield
        return
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def make_directories(directory: Path, mode: int) -> None:
    """Create a directory and its missing parents, durably. OSError: one cannot be created."""
    missing = [path for path in (directory, *directory.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir(mode, exist_ok=True)
        sync(path.parent)


def fill(handle: int, raw: bytes, access: FileOwnership | None) -> None:
    """Write a new file's content, ownership and mode to the disk, and close it. OSError: they are not there."""
    with os.fdopen(handle, "wb") as file:
        if access is not None and sys.platform != "win32":
            if (access.user, access.group) != (os.geteuid(), os.getegid()):
                os.chown(handle, access.user, access.group)
            os.fchmod(handle, access.mode)
        file.write(raw)
        file.flush()
        os.fsync(handle)
