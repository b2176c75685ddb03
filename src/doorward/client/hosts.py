"""Read hosts.toml, the client's hosts and the port sequences of their doors.

Does not import pathlib (14 ms): most knocks look up a host here first.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterable

from doorward.errors import InvalidValueError, UsageError
from doorward.named_tuple import NamedTuple
from doorward.port import DEFAULT_SIGNED_PORT, Port

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from doorward.client.request_options import AutomaticAddress
    from doorward.model import Source

TEXTS = ("address", "server_key", "identity", "certificate", "gate", "from", "for")
KEYS = (*TEXTS, "signed_port", "confirm", "once", "doors")


class KnownHost(NamedTuple):
    """One table of hosts.toml; `address` defaults to the table's name.

    A door without a sequence needs a signed knock. The fields after `doors` are for signed knocks.
    """

    name: str
    address: str
    doors: dict[str, tuple[Port, ...]]
    server_key: str | None = None
    signed_ports: tuple[Port, ...] = (DEFAULT_SIGNED_PORT,)  # tried in turn
    identity: str | None = None
    certificate: str | None = None
    gate: str | None = None
    asked: Source | AutomaticAddress | None = None  # from = "…"
    for_s: int | None = None
    confirm: bool = False  # the gate confirms, so ask for that, and wait for it
    once: bool = False  # open for one connection


def hosts_path() -> str:
    """Return the path of hosts.toml."""
    base = os.environ.get("XDG_CONFIG_HOME", "")
    if not base.startswith("/"):  # the XDG specification: relative paths are ignored
        base = os.path.expanduser("~/.config")  # noqa: PTH111
    return f"{base}/doorward/hosts.toml"


def read_hosts(path: str) -> dict[str, KnownHost]:
    """Return every host by name; empty if there is no file. UsageError names the fault and the remedy."""
    raw = _read(path)
    return {} if raw is None else parse_hosts(raw, path)


def parse_hosts(raw: bytes, path: str) -> dict[str, KnownHost]:
    """Return every host in the contents of a file; UsageError as in `read_hosts`."""
    import tomllib

    try:
        tables = tomllib.loads(raw.decode())
    except (ValueError, RecursionError) as error:  # thousands of digits, lists nested a thousand deep
        raise UsageError("not-toml", f"{path}: not TOML: {error}; fix the file") from None
    directory = os.path.dirname(path)  # noqa: PTH120
    return {name: _host(f"{path}: [{name}]", name, table, directory) for name, table in tables.items()}


def _read(path: str) -> bytes | None:
    from doorward.client.user_files import open_file

    try:
        descriptor = open_file(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UsageError(
            "unreadable-file", f"{path}: cannot be read: {error.strerror}; fix that, or give ports"
        ) from None
    try:
        status = os.fstat(descriptor)
        _reject_shared(path, status)
        return os.read(descriptor, status.st_size)
    finally:
        os.close(descriptor)


def _reject_shared(path: str, status: os.stat_result) -> None:
    """Reject a file that others can write: they could redirect the user's knocks and connections."""
    from doorward.client.user_files import rights_of_others, user_id

    if not stat.S_ISREG(status.st_mode):
        raise UsageError("not-regular-file", f"{path}: not a regular file; put a TOML file there")
    if (user := user_id()) is not None and status.st_uid not in (0, user):
        raise UsageError("foreign-owner", f"{path}: owned by another user; change the owner with `chown`")
    if rights_of_others(status) & (stat.S_IWGRP | stat.S_IWOTH):
        raise UsageError("writable-by-others", f"{path}: other users can write it; run `chmod go-w {path}`")


def _host(where: str, name: str, table: object, directory: str) -> KnownHost:
    if not isinstance(table, dict):
        raise UsageError("not-a-table", f'{where} must be a table; write [{name}] and below it address = "..."')
    for key, value in table.items():
        if key not in KEYS:
            raise UsageError("unknown-key", f"{where}: unknown key {key!r}; {_remedy(name, key, value)}")
    texts = {key: _text(where, key, table[key]) for key in TEXTS if key in table}
    server_key = texts.get("server_key")
    host = KnownHost(
        name,
        texts.get("address", name),
        _doors(where, table.get("doors", {}), may_be_empty=server_key is not None),
        server_key,
        identity=_resolve_path(directory, texts.get("identity")),
        certificate=_resolve_path(directory, texts.get("certificate")),
        confirm=_flag(where, "confirm", table.get("confirm", False)),
        once=_flag(where, "once", table.get("once", False)),
    )
    return host._replace(**_signed_options(where, table)) if table.keys() & _SIGNED_KEYS.keys() else host


_SIGNED_KEYS = {"signed_port": "signed_ports", "gate": "gate", "from": "asked", "for": "for_s"}  # their fields


def _signed_options(where: str, table: dict[str, object]) -> dict[str, Any]:
    """Return the fields that apply to signed knocks only."""
    from doorward.client.request_options import PARSERS

    options = {}
    for key in sorted(_SIGNED_KEYS.keys() & table.keys()):
        field, value = _SIGNED_KEYS[key], table[key]
        try:
            options[field] = PARSERS[field](
                _ports_text(where, key, value) if key == "signed_port" else _text(where, key, value)
            )
        except InvalidValueError as error:
            raise UsageError(error.code, f"{where}: {key}: {error}") from None
    return options


def _ports_text(where: str, key: str, value: object) -> str:
    """Return one port or a list of ports as the option has them; a port may be a number."""
    ports = value if isinstance(value, list) and value else [value]
    return ",".join(str(port) if type(port) is int else _text(where, key, port) for port in ports)


def _resolve_path(directory: str, path: str | None) -> str | None:
    """Resolve a path against the file's directory, not against the working directory."""
    return path if path is None or path.startswith("~") else os.path.join(directory, path)  # noqa: PTH118


def _remedy(name: str, key: str, value: object) -> str:
    if isinstance(value, dict) and not suggestion(key, KEYS):  # TOML splits a name at its dots
        return f'a host name with dots needs quotes: ["{name}.{key}"]'
    return suggestion(key, KEYS) or "remove it"


def _text(where: str, key: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise UsageError("not-a-string", f'{where}: {key} must be a string; write {key} = "..."')
    return value


def _flag(where: str, key: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise UsageError("not-a-boolean", f"{where}: {key} must be true or false; write {key} = true")
    return value


def _doors(where: str, table: object, *, may_be_empty: bool) -> dict[str, tuple[Port, ...]]:
    if not isinstance(table, dict):
        raise UsageError(
            "doors-not-table", f'{where}: doors must be a table; write DOOR = ["7000/tcp", ...] below [HOST.doors]'
        )
    return {name: _sequence(f"{where}: door {name!r}", name, value, may_be_empty) for name, value in table.items()}


def _sequence(where: str, name: str, value: object, may_be_empty: bool) -> tuple[Port, ...]:
    if not is_door(name):
        raise UsageError(
            "door-name-is-port", f"{where}: looks like a port; a door's name is not all digits and has no / or :"
        )
    if not isinstance(value, list) or not (value or may_be_empty):
        raise UsageError("not-a-list", f'{where}: must be a list of ports; write {name} = ["7000/tcp", "8000/udp"]')
    return tuple(_port(where, port) for port in value)


def _port(where: str, value: object) -> Port:
    try:
        return Port.parse(value if isinstance(value, str) else str(value))
    except InvalidValueError as error:
        raise UsageError(error.code, f"{where}: {error}") from None


def is_door(word: str) -> bool:
    """Return whether `word` is a door's name (`ssh`), not a port (`7000`, `7000/tcp`, `7000:tcp`)."""
    return not (word.isdigit() or "/" in word or ":" in word)


def find_door(path: str, hosts: dict[str, KnownHost], name: str, door: str) -> tuple[Port, ...]:
    """Return a door's sequence; UsageError names the missing host or door, and what exists."""
    host = find_host(path, hosts, name)
    if door not in host.doors:
        hint = suggestion(door, host.doors) or _listing("known doors:", host.doors)
        raise UsageError(
            "unknown-door", f"{path}: host {name!r} has no door {door!r}; {hint or f'add it below [{name}.doors]'}"
        )
    if not host.doors[door]:
        raise UsageError(
            "no-sequence", f"{path}: door {door!r} of host {name!r} has no port sequence; it needs a signed knock"
        )
    return host.doors[door]


def find_host(path: str, hosts: dict[str, KnownHost], name: str) -> KnownHost:
    """Return a host; UsageError lists the known hosts."""
    if name in hosts:
        return hosts[name]
    if not hosts:
        raise UsageError(
            "no-hosts",
            f"{path} names no host; add it with the line that `doorward init` prints on the server, "
            "`doorward add LINK --name NAME` (to knock at any other host, give ports: 7000 8000/udp 9000)",
        )
    hint = suggestion(name, hosts) or _listing("known hosts:", hosts)
    raise UsageError(
        "unknown-host", f"{path}: no host {name!r}; {hint} (to knock at any other host, give ports: 7000 8000/udp 9000)"
    )


def suggestion(word: str, known: Collection[str]) -> str:
    """Return "did you mean 'x'?" for the closest known word, or an empty string."""
    from doorward.config.diagnostics import nearest  # imported late: `doorward knock` rarely needs it

    near = nearest(word, known)
    return f"did you mean {near!r}?" if near else ""


def _listing(intro: str, names: Iterable[str]) -> str:
    listed = ", ".join(sorted(names))
    return f"{intro} {listed}" if listed else ""
