"""Write hosts to hosts.toml. The user's own text is preserved, and the file is replaced atomically."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from doorward.client.hosts import KnownHost, find_host, parse_hosts, read_hosts
from doorward.errors import HostError, UsageError
from doorward.escape import toml_list, toml_text
from doorward.kernel import atomic_file
from doorward.model import Port

_DIRECTORY_MODE = 0o700  # sequences are secrets
HostValue = str | bool | tuple[Port, ...]
_BARE = re.compile(r"[A-Za-z0-9_-]+")


def save_host(path: Path, name: str, table: str, *, replace: bool) -> Path | None:
    """Add a host's table to the file; return the path of the backup if an existing host was replaced.

    UsageError: the host exists, or the file is invalid. HostError: it cannot be written.
    """
    with host_errors(path):
        path = path.resolve()  # it may be a symbolic link, which must survive
        atomic_file.make_directories(path.parent, _DIRECTORY_MODE)
        with atomic_file.locked(path.parent):
            return _save_locked(path, name, table, replace=replace)


def delete_host(path: Path, name: str) -> Path:
    """Remove a host from the file; return the path of the backup.

    UsageError: the host is unknown, or written in a form that cannot be removed. HostError: the file cannot be written.
    """
    with host_errors(path):
        path = path.resolve()
        find_host(str(path), read_hosts(str(path)), name)
        with atomic_file.locked(path.parent):
            hosts, old = read_hosts(str(path)), path.read_text(encoding="utf-8")
            new = remove_host(old, name).encode()
            _reject_loss(path, name, hosts, new, is_removed=True)
            backup = path.with_name(f"{path.name}.before")
            atomic_file.replace(backup, old.encode())
            atomic_file.replace(path, new)
            return backup


def host_table(name: str, values: Mapping[str, HostValue], doors: dict[str, tuple[Port, ...]]) -> str:
    """Return a host's table as TOML."""
    head = _key(name)
    lines = [f"[{head}]", *(f"{key} = {_value(value)}" for key, value in values.items())]
    if doors:
        lines.append(f"[{head}.doors]")
        lines += [f"{_key(door)} = {toml_list(map(str, ports))}" for door, ports in doors.items()]
    return "\n".join(lines) + "\n"


def _value(value: HostValue) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    words = [value] if isinstance(value, str) else list(map(str, value))
    return toml_text(words[0]) if len(words) == 1 else toml_list(words)


def remove_host(text: str, name: str) -> str:
    """Return the text without a host's tables, as far as they have headers of their own."""
    kept: list[str] = []
    remarks: list[str] = []  # comments after the table's last setting: they belong to the next table
    is_out = False
    for line in re.split(r"(?<=\n)", text):  # TOML's line ends only: strings may contain others that Python splits at
        if (host := _header(line)) is not None:
            is_out = host == name
            kept += remarks
            remarks = []
        if not is_out:
            kept.append(line)
        elif line.strip() and not line.lstrip().startswith("#"):
            remarks = []
        else:
            remarks.append(line)
    return "".join(kept + remarks)


def _save_locked(path: Path, name: str, table: str, *, replace: bool) -> Path | None:
    hosts = read_hosts(str(path))
    old = path.read_text(encoding="utf-8") if path.exists() else ""
    is_there = name in hosts
    if is_there and not replace:
        raise UsageError(
            "host-exists",
            f"{path} already has the host {name!r}; use --replace to overwrite it, or choose another name",
        )
    text = remove_host(old, name) if is_there else old
    gap = "" if not text else "\n" if text.endswith("\n") else "\n\n"
    new = (text + gap + table).encode()
    _reject_loss(path, name, hosts, new)
    backup = path.with_name(f"{path.name}.before")
    if is_there:
        atomic_file.replace(backup, old.encode())
    atomic_file.replace(path, new)
    return backup if is_there else None


def _reject_loss(path: Path, name: str, hosts: dict[str, KnownHost], new: bytes, *, is_removed: bool = False) -> None:
    """Reject a change that would alter other hosts: `remove_host` does not recognize every form of a header."""
    others = {other: host for other, host in hosts.items() if other != name}
    try:
        written = parse_hosts(new, str(path))
    except UsageError:
        written = {}
    if {other: host for other, host in written.items() if other != name} != others or (name in written) == is_removed:
        raise UsageError(
            "uneditable-host", f"{path}: {name!r} is written in a form that doorward cannot change; edit the file"
        )


@contextmanager
def host_errors(path: Path) -> Iterator[None]:
    """Turn an OSError into a HostError with a remedy."""
    try:
        yield
    except OSError as error:
        raise HostError(
            "unwritable-file", f"{error.filename or path}: {error.strerror}; make it writable for yourself"
        ) from None


def _header(line: str) -> str | None:
    """Return the host named by a table header such as `[home.doors]`; None if the line is not one."""
    if not line.lstrip().startswith("["):
        return None
    try:
        return next(iter(tomllib.loads(line)), None)
    except tomllib.TOMLDecodeError:
        return None


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else toml_text(name)
