"""Which user the daemon goes on as: root hands over to the user `doorward` where that user can do the work."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import doorward
from doorward.config.files import read_text
from doorward.config.toml import parse
from doorward.daemon import privileges
from doorward.daemon.apart import in_child
from doorward.daemon.privileges import NET_ADMIN, SERVICE_USER, Identity
from doorward.errors import DoorwardError, HostError

_FILE_RIGHTS = 1 << 1 | 1 << 2  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH: a lesser user that has them needs them
_STATE_MODE, _RUNTIME_MODE = 0o700, 0o755
_MAKE_USER = "useradd --system --user-group --home-dir /nonexistent --shell /usr/sbin/nologin"
_LEDGER_PARTS = ("", "-wal", "-shm")


def prepare(config: Path, ledger: Path, runtime: Path) -> tuple[Identity | None, str]:
    """Make the folders, for the user to go over to; give that user, or None and why root stays root.

    Only root goes over to anybody. HostError: a folder cannot be made.
    """
    identity, note = _choose(config, ledger, runtime) if os.geteuid() == 0 else (None, "")
    for folder, mode in ((ledger.parent, _STATE_MODE), (runtime, _RUNTIME_MODE)):
        if folder.exists():
            continue
        try:
            folder.mkdir(parents=True)
            folder.chmod(mode)
            if identity is not None:
                os.chown(folder, identity.user, identity.group)
        except OSError as error:
            raise HostError(f"{folder}: {error.strerror}; make that folder, or name another") from None
    return identity, note


def go_over(identity: Identity | None) -> None:
    """Go on as this user, with the right to administer the network and no other; root without one stays root."""
    if identity is None and os.geteuid() == 0:
        return
    try:
        privileges.give_up(identity, NET_ADMIN if identity else NET_ADMIN | _FILE_RIGHTS)
    except OSError as error:
        raise HostError(f"giving up rights: {error.strerror}; is doorward started in a sandbox of its own?") from None


def _choose(config: Path, ledger: Path, runtime: Path) -> tuple[Identity | None, str]:
    identity = privileges.service_identity()
    if identity is None:
        return None, f"runs as root: no user {SERVICE_USER} to go over to; `{_MAKE_USER} {SERVICE_USER}` makes one"
    if _belongs_to(identity, config):
        return None, ""  # commands of root's would be whatever that user writes: reading it as root says so
    in_the_way = in_child(lambda: list(_obstacles(identity, config, ledger, runtime)))
    if in_the_way:
        return None, f"runs as root: the user {SERVICE_USER} cannot {'; cannot '.join(in_the_way)}"
    return identity, ""


def _belongs_to(identity: Identity, config: Path) -> bool:
    return any(path.exists() and path.stat().st_uid == identity.user for path in (config, config.parent))


def _obstacles(identity: Identity, config: Path, ledger: Path, runtime: Path) -> Iterator[str]:
    """Become the user, and say what it cannot do and what would let it; what does not exist is made for it."""
    readable = [path for path in (config, *named_files(config)) if path.exists()]
    program = [Path(module.__file__ or "/") for module in (doorward, os)]
    folders = [path for path in (ledger.parent, runtime) if path.exists()]
    parts = [ledger.with_name(ledger.name + suffix) for suffix in _LEDGER_PARTS]
    parts = [path for path in parts if path.exists()]
    try:
        privileges.give_up(identity, 0)
    except OSError as error:
        yield f"be gone over to ({error.strerror})"
        return
    for path in readable:
        if not os.access(path, os.R_OK):
            yield f"read {path} (`chgrp {identity.name} {path}; chmod g+r {path}`, its folder `g+x`)"
    for path in program:
        if not os.access(path, os.R_OK):
            yield f"read the program in {path.parent} (install doorward where every user can read it)"
    for path in folders:
        if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
            yield f"write to {path} (`chown -R {identity.name}: {path}`)"
    for path in parts:
        if not os.access(path, os.R_OK | os.W_OK) and os.access(path.parent, os.X_OK):
            yield f"write {path} (`chown -R {identity.name}: {path.parent}`)"


def named_files(config: Path) -> list[Path]:
    """Give the files that a configuration names; none where it cannot be read: that is said later."""
    try:
        text = read_text(config)
        if "[signed]" not in text and "[fleet]" not in text:
            return []  # the doors alone may take seconds to read
        found = parse(text, str(config))
    except DoorwardError:
        return []
    names = [] if found.signed is None else [found.signed.key, found.signed.authorized_keys]
    if (fleet := found.fleet) is not None:
        names += [name for name in (fleet.ca, fleet.certificate, fleet.key, fleet.password) if name]
    return [config.parent / name for name in names]
