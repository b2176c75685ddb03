"""Choose the daemon's user: root switches to the user `doorward` if that user can do the work."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

import doorward
from doorward.config.files import find_unsafe, parent_directories, read_text, trusted_owners
from doorward.config.toml import parse
from doorward.daemon import bans, saved_ruleset
from doorward.daemon.ledger import parts_of
from doorward.errors import DoorwardError, HostError
from doorward.kernel import privileges
from doorward.kernel.child_process import run_in_child
from doorward.kernel.privileges import NET_ADMIN, SERVICE_USER, Identity

_FILE_RIGHTS = 1 << 1 | 1 << 2  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH: a lesser user that has them needs them
_STATE_MODE, _RUNTIME_MODE, _OWN_MODE = 0o700, 0o755, 0o600
_MAKE_USER = "useradd --system --user-group --home-dir /nonexistent --shell /usr/sbin/nologin"


def prepare(config: Path, ledger: Path, control: Path) -> tuple[Identity | None, str]:
    """Create the directories for the user to switch to; return that user, or None and why root stays root.

    Only root switches to another user. HostError: a directory cannot be created, or root would have to work where
    another user could redirect it by a link.
    """
    identity, why = _choose(config, ledger, control.parent) if os.geteuid() == 0 else (None, "")
    for directory, mode in ((ledger.parent, _STATE_MODE), (control.parent, _RUNTIME_MODE)):
        if not directory.exists():
            _make(directory, mode, identity)
    if os.geteuid() == 0:
        kept = [ledger.with_name(name) for name in (bans.NAME, saved_ruleset.NAME, saved_ruleset.TRIAL_NAME)]
        if identity is None:
            for path in (control, ledger):
                refuse_shared(path, f"doorward does not run there as root, and {why}")
        refuse_foreign([*parts_of(ledger), *kept], identity)
    return identity, f"running as root: {why}" if why else ""


def refuse_shared(path: Path, remedy: str) -> None:
    """Raise HostError if another user could replace this file or put links in its path."""
    if wrong := find_unsafe(parent_directories(path), trusted_owners()):
        raise HostError(wrong.code, f"{path}: {wrong.fault}; {remedy}")


def refuse_foreign(files: Iterable[Path], identity: Identity | None) -> None:
    """Raise HostError if a file is a link, has several names, or is not writable by its owner (None: this user).

    Nothing is opened.
    """
    owners = trusted_owners() if identity is None else (identity.user,)
    foreign: list[Path] = []
    for path in files:
        try:
            found = path.lstat()
        except FileNotFoundError:
            continue
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
            what = "a file with several names" if stat.S_ISREG(found.st_mode) else "not a regular file"
            raise HostError(
                "unexpected-file-kind", f"{path}: this is {what}, which doorward never makes; look at it, and remove it"
            )
        if found.st_mode & _OWN_MODE != _OWN_MODE:
            raise HostError("unreadable-file", f"{path}: its owner may not read and write it; run `chmod u+rw {path}`")
        if found.st_uid not in owners:
            foreign.append(path)
    if foreign:
        name = str(os.geteuid()) if identity is None else identity.name
        what = f"this file belongs to user {foreign[0].lstat().st_uid}, not to {name}"
        raise HostError("foreign-owner", f"{foreign[0]}: {what}; run `chown -h {name} {' '.join(map(str, foreign))}`")


def _make(directory: Path, mode: int, identity: Identity | None) -> None:
    try:
        directory.mkdir(parents=True)
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.fchmod(handle, mode)
            if identity is not None:
                os.fchown(handle, identity.user, identity.group)
        finally:
            os.close(handle)
    except OSError as error:
        raise HostError(
            "unwritable-directory", f"{directory}: {error.strerror}; create that directory, or choose another"
        ) from None


def drop_privileges(identity: Identity | None) -> None:
    """Switch to this user and keep CAP_NET_ADMIN only; root without such a user stays root."""
    if identity is None and os.geteuid() == 0:
        return
    try:
        privileges.drop_privileges(identity, NET_ADMIN if identity else NET_ADMIN | _FILE_RIGHTS)
    except OSError as error:
        raise HostError(
            "privileges-not-dropped", f"cannot drop privileges: {error.strerror}; is doorward started in a sandbox?"
        ) from None


def _choose(config: Path, ledger: Path, runtime: Path) -> tuple[Identity | None, str]:
    identity = privileges.service_identity()
    if identity is None:
        return None, f"there is no user {SERVICE_USER} to switch to; `{_MAKE_USER} {SERVICE_USER}` makes one"
    if _belongs_to(identity, config):
        read_text(config, trusted_owners())  # says that root's commands would be whatever that user writes
    in_the_way = run_in_child(lambda: list(_obstacles(identity, config, ledger, runtime)))
    if in_the_way:
        return None, f"the user {SERVICE_USER} cannot {'; cannot '.join(in_the_way)}"
    return identity, ""


def _belongs_to(identity: Identity, config: Path) -> bool:
    return any(path.exists() and path.stat().st_uid == identity.user for path in (config, config.parent))


def _obstacles(identity: Identity, config: Path, ledger: Path, runtime: Path) -> Iterator[str]:
    """Switch to the user, and yield what it cannot do and the remedy; missing files will be created for it."""
    readable = [path for path in (config, *named_files(config)) if path.exists()]
    program = [Path(module.__file__ or "/") for module in (doorward, os)]
    folders = [path for path in (ledger.parent, runtime) if path.exists()]
    try:
        privileges.drop_privileges(identity, 0)
    except OSError as error:
        yield f"be switched to ({error.strerror})"
        return
    for path in readable:
        if not os.access(path, os.R_OK):
            yield f"read {path} (`chgrp {identity.name} {path}; chmod g+r {path}`, its directory `g+x`)"
    for path in program:
        if not os.access(path, os.R_OK):
            yield f"read the program in {path.parent} (install doorward where every user can read it)"
    for path in folders:
        if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
            yield f"write to {path} (`chown -R {identity.name}: {path}`)"


def named_files(config: Path) -> list[Path]:
    """Return the files that a configuration names; empty if it cannot be read, which is reported later."""
    try:
        text = read_text(config)
        if "[signed]" not in text and "[fleet]" not in text:
            return []  # the doors alone may take seconds to read
        found = parse(text, str(config))
    except DoorwardError:
        return []
    names = [] if found.signed is None else [found.signed.key, found.signed.authorized_keys]
    names += [] if found.fwknop is None else [found.fwknop.keys]
    if (fleet := found.fleet) is not None:
        names += [name for name in (fleet.ca, fleet.certificate, fleet.key, fleet.password) if name]
    return [config.parent / name for name in names]
