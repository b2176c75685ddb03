"""Access another user's directory with that user's rights, so that links in it cannot expose root's files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def owner_rights(directory: Path) -> Iterator[None]:
    """As root, act as the owner of a directory until the end of the block; no effect for other users.

    OSError: no such directory, or this process may not act as its owner.
    """
    owner = directory.stat()
    if os.geteuid() != 0 or owner.st_uid == 0:
        yield
        return
    group, groups = os.getegid(), os.getgroups()
    try:
        os.setgroups([])
        os.setegid(owner.st_gid)
        os.seteuid(owner.st_uid)
        yield
    finally:
        os.seteuid(0)  # first: only root may change its groups
        os.setegid(group)
        os.setgroups(groups)
