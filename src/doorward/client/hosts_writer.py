"""Writes hosts into hosts.toml. What the user wrote there stays as it is; the file is changed whole or not at all."""

from __future__ import annotations

import fcntl
import json
import os
import re
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from doorward.client.hosts import KnownHost, parse_hosts, read_hosts
from doorward.errors import HostError, UsageError
from doorward.kernel import atomic_file
from doorward.model import Port

_FOLDER_MODE, _FILE_MODE = 0o700, 0o600  # sequences are secrets
_BARE = re.compile(r"[A-Za-z0-9_-]+")


def save_host(path: Path, name: str, table: str, *, replace: bool) -> Path | None:
    """Write a host's table into the file; gives where the former file is, if the host was there before.

    UsageError: the host is there, or the file is wrong. HostError: it cannot be written.
    """
    with complaining(path):
        path = path.resolve()  # the file may be a link to where the user keeps such files
        atomic_file.make_directories(path.parent, _FOLDER_MODE)
        with _locked(path.parent):
            return _keep(path, name, table, replace=replace)


def host_table(name: str, values: dict[str, str], doors: dict[str, tuple[Port, ...]]) -> str:
    """Write a host's table as TOML."""
    head = _key(name)
    lines = [f"[{head}]", *(f"{key} = {_quoted(value)}" for key, value in values.items())]
    if doors:
        lines.append(f"[{head}.doors]")
        lines += [f"{_key(door)} = [{', '.join(map(_quoted, map(str, ports)))}]" for door, ports in doors.items()]
    return "\n".join(lines) + "\n"


def without(text: str, name: str) -> str:
    """Give the file's text without a host's tables, as far as they stand under headers of their own."""
    kept: list[str] = []
    remarks: list[str] = []  # behind the last setting of such a table: they belong to what comes next
    is_out = False
    for line in re.split(r"(?<=\n)", text):  # TOML's lines: strings may hold what Python takes for other ends
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


def _keep(path: Path, name: str, table: str, *, replace: bool) -> Path | None:
    hosts = read_hosts(str(path))
    old = path.read_text() if path.exists() else ""
    is_there = name in hosts
    if is_there and not replace:
        raise UsageError(f"{path} has the host {name!r} already; add --replace to write it anew, or take another name")
    text = without(old, name) if is_there else old
    gap = "" if not text else "\n" if text.endswith("\n") else "\n\n"
    new = (text + gap + table).encode()
    _refuse_loss(path, name, hosts, new)
    before = path.with_name(f"{path.name}.before")
    if is_there:
        write(before, old.encode())
    write(path, new)
    return before if is_there else None


def _refuse_loss(path: Path, name: str, hosts: dict[str, KnownHost], new: bytes) -> None:
    """See that the file's other hosts are what they were: headers may hide in places that `without` does not know."""
    others = {each: host for each, host in hosts.items() if each != name}
    try:
        found = parse_hosts(new, str(path))
    except UsageError:
        found = {}
    if {each: host for each, host in found.items() if each != name} != others or name not in found:
        raise UsageError(f"{path}: {name!r} stands there in a form that cannot be changed from here; edit it by hand")


def write(path: Path, raw: bytes) -> None:
    """Let these bytes take the file's place, readable for its user alone. OSError: they have not."""
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _FILE_MODE)
    with os.fdopen(handle, "wb") as file:
        file.write(raw)
        file.flush()
        os.fsync(handle)
    atomic_file.rename(new, path)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Two who add at once take turns, so that neither loses what the other wrote."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextmanager
def complaining(path: Path) -> Iterator[None]:
    """Say what to do where a file cannot be reached: a HostError."""
    try:
        yield
    except OSError as error:
        raise HostError(f"{error.filename or path}: {error.strerror}; make it writable for yourself") from None


def _header(line: str) -> str | None:
    """Give the host that a line like `[home.doors]` begins a table of; None: it begins none."""
    if not line.lstrip().startswith("["):
        return None
    try:
        return next(iter(tomllib.loads(line)), None)
    except tomllib.TOMLDecodeError:
        return None


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else _quoted(name)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")  # the rest of JSON's escapes is TOML's
