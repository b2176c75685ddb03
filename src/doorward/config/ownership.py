"""Who else could change a configuration, or read it. Pure: judges what stat(2) says of a file and its folders.

Whoever can write the file, or put another one in its place, chooses who gets in and what is run; as sshd and sudo
do, doorward refuses such a file. Its sequences are secrets, but a file that others can read still works.
"""

from __future__ import annotations

import stat
from collections.abc import Collection, Iterable
from typing import NamedTuple


class Entry(NamedTuple):
    """The file itself, or a directory on the way to it or to what it links to."""

    path: str
    owner: int
    mode: int
    is_folder: bool


class Objection(NamedTuple):
    """What is wrong, and what to do."""

    what: str
    remedy: str


def objection(entries: Iterable[Entry], owners: Collection[int] | None) -> Objection | None:
    """Say who else could change the file; None: nobody. `owners`: whose it and its folders may be (None: anybody's).

    A directory that others can write passes where it is sticky, as /tmp is: there only a file's owner replaces it.
    """
    for path, owner, mode, is_folder in entries:
        if mode & (stat.S_IWGRP | stat.S_IWOTH) and not (is_folder and mode & stat.S_ISVTX):
            what = f"other users can write its directory {path}" if is_folder else "other users can write this file"
            return Objection(what, f"run `chmod go-w {path}`")
        if owners is not None and owner not in owners:
            what = (
                f"its directory {path} belongs to user {owner}" if is_folder else f"this file belongs to user {owner}"
            )
            return Objection(f"{what}, who could change it", f"run `chown root {path}`")
    return None


def is_exposed(entries: Iterable[Entry]) -> bool:
    """Tell whether every user of the host can read the file."""
    return all(entry.mode & (stat.S_IXOTH if entry.is_folder else stat.S_IROTH) for entry in entries)
