"""Read the user's own files. Windows has access lists in place of owners and modes; these are not examined."""

from __future__ import annotations

import os
import stat

# Windows has the second one: without it, line ends are converted.
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def open_file(path: str) -> int:
    """Return a descriptor for reading a file; a pipe does not block. OSError: it cannot be opened."""
    return os.open(path, _FLAGS)


def user_id() -> int | None:
    """Return the number of this process's user; None on Windows."""
    return os.geteuid() if hasattr(os, "geteuid") else None


def rights_of_others(status: os.stat_result) -> int:
    """Return the mode's bits for other users than the owner; 0 on Windows."""
    return status.st_mode & (stat.S_IRWXG | stat.S_IRWXO) if hasattr(os, "geteuid") else 0


def is_exposed(path: str) -> bool:
    """Return whether every user of this host can read the file, and so its sequences."""
    readable = rights_of_others(os.stat(path)) & stat.S_IROTH  # noqa: PTH116
    while readable and path != "/":
        path = os.path.dirname(path)  # noqa: PTH120
        readable = os.stat(path).st_mode & stat.S_IXOTH  # noqa: PTH116
    return bool(readable)
