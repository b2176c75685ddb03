"""Locate the configuration file, check its permissions and read it."""

from __future__ import annotations

import grp
import os
import stat
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from doorward.errors import ConfigError, ConfigFault, HostError, UsageError

if TYPE_CHECKING:
    from doorward.config.schema import Configuration


class PathComponent(NamedTuple):
    """A file, or a directory in its path or in the path of its link target."""

    path: str
    owner: int
    mode: int
    is_directory: bool


class UnsafePath(NamedTuple):
    """The fault of an unsafe path, and the remedy."""

    code: str
    fault: str
    remedy: str


def find_unsafe(entries: Iterable[PathComponent], owners: Collection[int] | None) -> UnsafePath | None:
    """Return how an untrusted user could change the file, or None if none can.

    `owners` are the users that may own it and its directories (None: any user). A directory writable by others is safe
    if it is sticky, like /tmp: only a file's owner can replace a file there.
    """
    for path, owner, mode, is_directory in entries:
        if mode & (stat.S_IWGRP | stat.S_IWOTH) and not (is_directory and mode & stat.S_ISVTX):
            fault = f"other users can write its directory {path}" if is_directory else "other users can write this file"
            return UnsafePath("writable-by-others", fault, f"run `chmod go-w {path}`")
        if owners is not None and owner not in owners:
            fault = (
                f"its directory {path} belongs to user {owner}"
                if is_directory
                else f"this file belongs to user {owner}"
            )
            return UnsafePath("foreign-owner", f"{fault}, who could change it", f"run `chown root {path}`")
    return None


def is_exposed(entries: Iterable[PathComponent]) -> bool:
    """Return whether every user of this host can read the file."""
    return all(entry.mode & (stat.S_IXOTH if entry.is_directory else stat.S_IROTH) for entry in entries)


MAX_BYTES = 256 << 20  # a million doors take a tenth of it; a device or a disk image could be endless


def default_path() -> Path:
    """Return the configuration file used when the command line names none."""
    directories = os.environ.get("CONFIGURATION_DIRECTORY", "")  # systemd separates several with colons
    return Path(directories.split(":")[0] or "/etc/doorward") / "doorward.toml"


def read(path: Path) -> Configuration:
    """Read a configuration that no untrusted user can change. Raises ConfigError or UsageError."""
    from doorward.config.toml import parse  # which commands that only ask the daemon do not need

    return parse(read_text(path, trusted_owners()), str(path))


def trusted_owners() -> Collection[int]:
    """Return the users that may own a configuration: root, this user, and the user that called sudo."""
    caller = os.environ.get("SUDO_UID", "") if os.geteuid() == 0 else ""
    return {0, os.geteuid(), *([int(caller)] if caller.isdecimal() else [])}


def open_safe_directory(path: Path) -> int:
    """Return a descriptor of the directory that contains a file. Raises HostError if others could change it.

    Operations relative to the descriptor apply to the directory that was checked. Raises OSError if it cannot open it.
    """
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        itself = PathComponent(str(path.parent), status.st_uid, status.st_mode, is_directory=True)
        if unsafe := find_unsafe([itself, *parent_directories(path)], trusted_owners()):
            raise HostError(unsafe.code, f"{path}: {unsafe.fault}; {unsafe.remedy}")
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def exposure(path: Path) -> UnsafePath | None:
    """Return the fault and remedy if every user can read the file, else None."""
    entries = list(_path_components(path, path.stat()))
    if not (entries and is_exposed(entries)):
        return None
    return UnsafePath("readable-by-others", "every user of this host can read the sequences", f"run `chmod o-r {path}`")


def group_id(name: str | None) -> int | None:
    """Return the ID of a Unix group. Raises HostError if this host has no such group."""
    try:
        return None if name is None else grp.getgrnam(name).gr_gid
    except KeyError:
        raise HostError(
            "unknown-group", f"[gate] control_group: unknown group {name!r}; create it with groupadd"
        ) from None


def read_text(path: Path, owners: Collection[int] | None = None) -> str:
    """Return the text of a configuration. Raises UsageError (unreadable) or ConfigError (unsafe, not text).

    `owners` are the users that may own it (None: any user).
    """
    return decode_text(_read_bytes(path, owners), str(path))


def decode_text(raw: bytes, file: str) -> str:
    """Decode a file's bytes. Raises ConfigError if they are not UTF-8 text or too long."""
    if len(raw) > MAX_BYTES:
        remedy = "name the right file, or write fewer doors"
        raise ConfigError(
            [ConfigFault("file-too-large", file, 1, f"the file is larger than {MAX_BYTES >> 20} MiB", remedy)]
        )
    try:
        text = raw.decode("utf-8-sig")  # some editors write a byte order mark
    except UnicodeDecodeError as error:
        raise ConfigError([_not_text("not-utf8", file, raw, error.start, "the file is not valid UTF-8")]) from None
    if "\0" in text:
        raise ConfigError([_not_text("nul-byte", file, raw, raw.index(b"\0"), "a NUL byte is in the file")])
    return text


def _not_text(code: str, file: str, raw: bytes, offset: int, fault: str) -> ConfigFault:
    return ConfigFault(code, file, raw.count(b"\n", 0, offset) + 1, fault, "save the file as UTF-8 text")


def _path_components(path: Path, status: os.stat_result) -> Iterator[PathComponent]:
    """Yield a file and the directories above it and above its link target; nothing for pipes and devices."""
    if not stat.S_ISREG(status.st_mode):
        return
    yield PathComponent(str(path), status.st_uid, status.st_mode, is_directory=False)
    yield from parent_directories(path)


def parent_directories(path: Path) -> Iterator[PathComponent]:
    """Yield the directories above a path and above its link target, the nearest first."""
    paths = (path.absolute(), path.resolve())
    nearest = [file.parent for file in paths]
    for directory in dict.fromkeys((*nearest, *(directory for file in paths for directory in file.parents))):
        status = directory.stat()
        yield PathComponent(str(directory), status.st_uid, status.st_mode, is_directory=True)


def _read_bytes(path: Path, owners: Collection[int] | None) -> bytes:
    try:
        with path.open("rb") as file:
            if unsafe := find_unsafe(_path_components(path, os.fstat(file.fileno())), owners):
                raise ConfigError([ConfigFault(unsafe.code, str(path), 1, unsafe.fault, unsafe.remedy)])
            return file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        remedy = "run `sudo doorward init` to create it" if path == default_path() else "create it, or name another one"
        raise UsageError("no-such-file", f"{path}: no such file; {remedy}") from None
    except IsADirectoryError:
        raise UsageError("is-a-directory", f"{path}: this is a directory; name the file in it") from None
    except PermissionError:
        remedy = "run doorward as root, or change its mode (`chmod g+r`) and its group (`chgrp`)"
        raise UsageError("no-permission", f"{path}: permission denied; {remedy}") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError("unreadable-file", f"{path}: cannot be read ({reason}); name another file") from None
