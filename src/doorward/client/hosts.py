"""Reads hosts.toml, where the client keeps its hosts and their doors' sequences.

Kept free of pathlib (14 ms to import): most knocks at a name look here first.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from typing import NamedTuple

from doorward.errors import UsageError
from doorward.model import Port

TEXTS = ("address", "server_key", "identity")
KEYS = (*TEXTS, "signed_port", "doors")


class Host(NamedTuple):
    """One table of hosts.toml; `address` is the table's name where the file gives none."""

    name: str
    address: str
    doors: dict[str, tuple[Port, ...]]
    server_key: str | None = None
    signed_port: Port | None = None
    identity: str | None = None


def hosts_path() -> str:
    """Tell where hosts.toml is looked for."""
    base = os.environ.get("XDG_CONFIG_HOME", "")
    if not base.startswith("/"):  # the XDG specification: a relative path is to be ignored
        base = os.path.expanduser("~/.config")  # noqa: PTH111
    return f"{base}/doorward/hosts.toml"


def read_hosts(path: str) -> dict[str, Host]:
    """Read every host; no file is no hosts. UsageError: what is wrong in the file, and what to write."""
    raw = _read(path)
    return {} if raw is None else hosts_of(raw, path)


def hosts_of(raw: bytes, path: str) -> dict[str, Host]:
    """Read every host in the bytes of a file; UsageError as above."""
    import tomllib

    try:
        tables = tomllib.loads(raw.decode())
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, lists a thousand deep
        raise UsageError(f"{path}: not TOML: {error}; mend it there") from None
    return {name: _host(f"{path}: [{name}]", name, table) for name, table in tables.items()}


def is_exposed(path: str) -> bool:
    """Tell whether every user of this machine can read the file, and its sequences."""
    found = os.stat(path).st_mode & stat.S_IROTH  # noqa: PTH116
    while found and path != "/":
        path = os.path.dirname(path)  # noqa: PTH120
        found = os.stat(path).st_mode & stat.S_IXOTH  # noqa: PTH116
    return bool(found)


def _read(path: str) -> bytes | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe must not stop us
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}; mend that, or give ports") from None
    try:
        found = os.fstat(descriptor)
        _refuse_shared(path, found)
        return os.read(descriptor, found.st_size)
    finally:
        os.close(descriptor)


def _refuse_shared(path: str, found: os.stat_result) -> None:
    """Whoever can write the file chooses where the user's knocks and connections go."""
    if not stat.S_ISREG(found.st_mode):
        raise UsageError(f"{path}: is no regular file; put a TOML file there")
    if found.st_uid not in (0, os.geteuid()):
        raise UsageError(f"{path}: belongs to another user; make it yours with `chown`")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise UsageError(f"{path}: other users can write it; run `chmod go-w {path}`")


def _host(where: str, name: str, table: object) -> Host:
    if not isinstance(table, dict):
        raise UsageError(f'{where} must be a table; write [{name}] and below it address = "..."')
    for key, value in table.items():
        if key not in KEYS:
            raise UsageError(f"{where}: unknown key {key!r}; {_instead(name, key, value)}")
    texts = {key: _text(where, key, table[key]) for key in TEXTS if key in table}
    return Host(
        name,
        texts.get("address", name),
        _doors(where, table.get("doors", {})),
        texts.get("server_key"),
        _port(f"{where}: signed_port", table["signed_port"]) if "signed_port" in table else None,
        texts.get("identity"),
    )


def _instead(name: str, key: str, value: object) -> str:
    if isinstance(value, dict) and not _near(key, KEYS):  # TOML splits a name at its dots
        return f'a host name with dots needs quotes: ["{name}.{key}"]'
    return _near(key, KEYS) or "remove it"


def _text(where: str, key: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise UsageError(f'{where}: {key} must be a text; write {key} = "..."')
    return value


def _doors(where: str, table: object) -> dict[str, tuple[Port, ...]]:
    if not isinstance(table, dict):
        raise UsageError(f'{where}: doors must be a table; write DOOR = ["7000/tcp", ...] below [HOST.doors]')
    return {name: _sequence(f"{where}: door {name!r}", name, value) for name, value in table.items()}


def _sequence(where: str, name: str, value: object) -> tuple[Port, ...]:
    if not is_door(name):
        raise UsageError(f"{where}: looks like a port; a door's name is not all digits and has no / or :")
    if not isinstance(value, list) or not value:
        raise UsageError(f'{where}: must be a list of ports; write {name} = ["7000/tcp", "8000/udp"]')
    return tuple(_port(where, port) for port in value)


def _port(where: str, value: object) -> Port:
    try:
        return Port.parse(value if isinstance(value, str) else str(value))
    except ValueError as error:
        raise UsageError(f"{where}: {error}") from None


def is_door(word: str) -> bool:
    """Tell a door's name from a port: `ssh` from `7000`, `7000/tcp` and `7000:tcp`."""
    return not (word.isdigit() or "/" in word or ":" in word)


def door_of(path: str, hosts: dict[str, Host], name: str, door: str) -> tuple[Port, ...]:
    """Give a door's sequence; UsageError says which of file, host and door is missing, and what exists."""
    host = host_of(path, hosts, name)
    if door not in host.doors:
        hint = _near(door, host.doors) or _listed("its doors are", host.doors)
        raise UsageError(f"{path}: host {name!r} has no door {door!r}; {hint or f'add it below [{name}.doors]'}")
    return host.doors[door]


def host_of(path: str, hosts: dict[str, Host], name: str) -> Host:
    """Give a host; UsageError says what is missing, and what exists."""
    if name in hosts:
        return hosts[name]
    if not hosts:
        raise UsageError(
            f"no door is known: {path} names no host; give ports (7000 8000/udp 9000), or write there, for example:"
            f'\n  ["{name}"]\n  address = "192.0.2.7"'
            f'\n  ["{name}".doors]\n  ssh = ["7000/tcp", "8000/udp", "9000/tcp"]'
        )
    hint = _near(name, hosts) or _listed("the hosts there are", hosts)
    raise UsageError(f"{path}: no host {name!r}; {hint} (to knock at any other, give ports: 7000 8000/udp 9000)")


def _near(word: str, known: Iterable[str]) -> str:
    import difflib

    near = difflib.get_close_matches(word, list(known), n=1)
    return f"did you mean {near[0]!r}?" if near else ""


def _listed(what: str, names: Iterable[str]) -> str:
    listed = ", ".join(sorted(names))
    return f"{what} {listed}" if listed else ""
