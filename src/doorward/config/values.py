"""Converters of single TOML values. Each raises ValueError as `fault; remedy`."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Sequence
from datetime import date, datetime
from enum import StrEnum
from ipaddress import IPv4Network
from typing import TypeVar

from doorward.config.diagnostics import shown
from doorward.config.duration import format_duration, parse_duration_ms
from doorward.config.schema import MAX_CAPACITY, MAX_SEQUENCE, Mark
from doorward.errors import InvalidValueError
from doorward.model import (
    NAME,
    Address,
    FlagFilter,
    HostPort,
    OpenPort,
    Port,
    PortRange,
    Protocol,
    Redirect,
    parse_address,
)

MIN_CAPACITY = 1024
MAX_WITHIN_MS = 3_600_000  # an hour; an attempt takes room for as long
MAX_FOR_MS = 365 * 86_400_000  # what should be open for longer is public
MAX_OPENS = 32  # one rule adds an element for each
MAX_OPEN_PORT = 80  # characters: a port, an arrow, the longest address, and another port
MIN_WINDOW_MS, MAX_WINDOW_MS = 1000, 3_600_000  # the numbers of knocks are remembered for longer
MIN_TIMEOUT_MS, MAX_TIMEOUT_MS = 50, 10_000  # etcd syncs its disk before it answers; a client waits for the answer
MAX_ENDPOINTS = 16  # etcd recommends seven nodes at most
MAX_INTERFACE_BYTES = 15  # IFNAMSIZ without its NUL
_INTERFACE = re.compile(r"""[^\s/:"'\\*]+\*?""")
_MARK = re.compile(r"(0x[0-9a-f]{1,8}|[0-9]{1,10})(?:/(0x[0-9a-f]{1,8}|[0-9]{1,10}))?", re.IGNORECASE)
_ENDPOINT = re.compile(r"https?://(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\]):([0-9]{1,5})/?")
_MAX_MARK = 0xFFFF_FFFF

Choice = TypeVar("Choice", bound=StrEnum)
Item = TypeVar("Item", bound=Hashable)


def text(value: object) -> str:
    """Convert a string."""
    if not isinstance(value, str):
        raise InvalidValueError(
            "not-a-string", f'{shown(value)} is not a string; write text in double quotes, like "text"'
        )
    return value


def choice(words: type[Choice]) -> Callable[[object], Choice]:
    """Return a converter for the members of an enumeration."""

    def read(value: object) -> Choice:
        if not isinstance(value, str) or value not in list(words):
            raise InvalidValueError("unknown-value", f"{shown(value)} is unknown; write {' or '.join(quoted(words))}")
        return words(value)

    return read


def quoted(words: type[StrEnum]) -> list[str]:
    """Return the values of an enumeration in double quotes, as the file has them."""
    return [f'"{word}"' for word in words]


def boolean(value: object) -> bool:
    """Convert true or false, which TOML writes without quotes."""
    if not isinstance(value, bool):
        raise InvalidValueError(
            "not-a-boolean", f"{shown(value)} is neither true nor false; write true or false, without quotes"
        )
    return value


def capacity(value: object) -> int:
    """Convert the number of sources to track."""
    if not isinstance(value, int) or isinstance(value, bool) or not MIN_CAPACITY <= value <= MAX_CAPACITY:
        raise InvalidValueError(
            "invalid-capacity",
            f"invalid capacity {shown(value)}; "
            f"write a whole number from {MIN_CAPACITY} to {MAX_CAPACITY}, without quotes",
        )
    return value


def name(value: object) -> str:
    """Convert the name of a door or gate."""
    word = text(value)
    if NAME.fullmatch(word) is None:
        raise InvalidValueError("invalid-name", f"invalid name {shown(word)}; write 1 to 64 letters, digits, - and _")
    if word.isdigit():
        raise InvalidValueError(
            "numeric-name", f'{shown(word)} is all digits; put a letter into the name, like "port-{word}"'
        )
    return word


def host(value: object) -> str:
    """Convert a host name or address, which this host may be unable to resolve."""
    word = text(value)
    if not 1 <= len(word) <= 253 or not all(letter.isalnum() or letter in "-._:" for letter in word):
        raise InvalidValueError(
            "invalid-host", f'invalid host {shown(word)}; write a name or an address, like "server.example"'
        )
    return word


def group(value: object) -> str:
    """Convert the name of a Unix group; whether it exists is checked elsewhere."""
    word = text(value)
    if not word.isprintable() or word != word.strip() or not 1 <= len(word) <= 255 or set(word) & set(":,/"):
        raise InvalidValueError(
            "invalid-group", f'invalid group name {shown(word)}; write the name of a Unix group, like "adm"'
        )
    return word


def mark(value: object) -> Mark:
    """Convert a mark, as a number or in iptables' syntax, `0x1000/0x1000`; the default mask is the value itself."""
    word = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    match = _MARK.fullmatch(word.strip()) if isinstance(word, str) else None
    numbers = [int(part, 0 if part[:2].lower() == "0x" else 10) for part in match.groups() if part] if match else []
    if not numbers or max(numbers) > _MAX_MARK:
        raise InvalidValueError(
            "invalid-mark", f'invalid mark {shown(value)}; write value and mask, like "0x1000/0x1000"'
        )
    bits, mask = numbers[0], numbers[-1]
    if bits == 0 or bits & ~mask:
        raise InvalidValueError(
            "mark-outside-mask",
            f'{shown(value)}: the value must be bits of its mask, not 0; write like "0x1000/0x1000"',
        )
    return Mark(bits, mask)


def duration(limit_ms: int) -> Callable[[object], int]:
    """Return a converter for durations up to a limit, in milliseconds."""

    def read(value: object) -> int:
        if isinstance(value, int) and not isinstance(value, bool):
            remedy = f'"{value}s"' if 0 < value <= limit_ms // 1000 else 'a text like "15s"'
            raise InvalidValueError("no-unit", f"{shown(value)} has no unit; write {remedy}")
        duration_ms = parse_duration_ms(text(value))
        if duration_ms > limit_ms:
            raise InvalidValueError(
                "duration-too-long", f'{shown(value)} is too long; write at most "{format_duration(limit_ms)}"'
            )
        return duration_ms

    return read


def port(value: object) -> Port:
    """Convert one port; a number without a protocol is the most common mistake."""
    number = value if isinstance(value, int) and not isinstance(value, bool) else 0
    if isinstance(value, str) and re.fullmatch("[0-9]{1,5}", value.strip()):
        number = int(value)
    if 1 <= number <= 65535:
        raise InvalidValueError(
            "no-protocol", f'{shown(value)} has no protocol; write "{number}/tcp" or "{number}/udp"'
        )
    if isinstance(value, str) and PortRange.parse(value) is not None:
        raise InvalidValueError(
            "range-not-allowed",
            f"{shown(value)} is a range, which only `public` and `opens` accept; list the ports one by one",
        )
    if not isinstance(value, str) or len(value) > 40:
        raise InvalidValueError("invalid-port", f'invalid port {shown(value)}; write a text like "7000/tcp"')
    return Port.parse(value)


def udp_port(value: object) -> Port:
    """Convert one UDP port."""
    found = port(value)
    if found.protocol is not Protocol.UDP:
        raise InvalidValueError("not-udp-port", f"{found} is not a UDP port; write {found.number}/udp")
    return found


def open_port(value: object) -> OpenPort | Redirect:
    """Convert what a door opens: a port or a range of this host, a port behind it, or one that leads to the other."""
    if not isinstance(value, str) or len(value) > MAX_OPEN_PORT:
        return port(value)
    span = PortRange.parse(value)
    if span is not None:
        return span if span.number < span.last else span.first
    return Redirect.parse(value) or HostPort.parse(value) or port(value)


def file(value: object) -> str:
    """Convert a file name; a relative one is resolved against the configuration directory."""
    word = text(value)
    if not word or not word.isprintable() or word.endswith("/"):
        raise InvalidValueError("no-file-named", f'{shown(word)} names no file; write a path, like "server.key"')
    return word


def window(value: object) -> int:
    """Convert how far a sender's clock may differ, in milliseconds."""
    duration_ms = duration(MAX_WINDOW_MS)(value)
    if duration_ms < MIN_WINDOW_MS:
        raise InvalidValueError(
            "window-too-short", f'{shown(value)} is shorter than clocks differ; write at least "1s"'
        )
    return duration_ms


def timeout(value: object) -> int:
    """Convert how long to wait for an answer, in milliseconds."""
    duration_ms = duration(MAX_TIMEOUT_MS)(value)
    if duration_ms < MIN_TIMEOUT_MS:
        raise InvalidValueError(
            "timeout-too-short", f'{shown(value)} is too short for an answer; write at least "{MIN_TIMEOUT_MS}ms"'
        )
    return duration_ms


def endpoint(value: object) -> str:
    """Convert the URL of an etcd node."""
    word = text(value)
    match = _ENDPOINT.fullmatch(word)
    if match is None or not 1 <= int(match[1]) <= 65535:
        raise InvalidValueError(
            "invalid-endpoint", f'invalid endpoint {shown(word)}; write it like "https://192.0.2.11:2379"'
        )
    return word.rstrip("/")


def endpoints(items: Sequence[str]) -> tuple[str, ...]:
    """Convert the list of etcd nodes."""
    if not 1 <= len(items) <= MAX_ENDPOINTS:
        raise InvalidValueError(
            "endpoint-count", f"{len(items)} endpoints; write 1 to {MAX_ENDPOINTS}, those of the nodes of etcd"
        )
    return distinct(items)


def port_range(value: object) -> tuple[Port, ...]:
    """Convert one port or a range of ports."""
    span = PortRange.parse(value) if isinstance(value, str) else None
    return (port(value),) if span is None else tuple(span.ports())


def interface(value: object) -> str:
    """Convert an interface name as Linux allows it; a trailing `*` is a wildcard."""
    word = text(value)
    if word == "lo":
        raise InvalidValueError("loopback-watched", "'lo' is never watched; remove it from the list")
    if word == "*":
        raise InvalidValueError(
            "empty-wildcard", "'*' names nothing; leave `interfaces` out to watch every interface but lo"
        )
    well_formed = _INTERFACE.fullmatch(word) and word.isprintable() and word.rstrip("*") not in (".", "..")
    if not well_formed or len(word.encode()) > MAX_INTERFACE_BYTES:
        raise InvalidValueError(
            "invalid-interface",
            f"invalid interface name {shown(word)}; write a name as `ip link` shows it, at most "
            f'{MAX_INTERFACE_BYTES} bytes, like "eth0" or "ppp*"',
        )
    return word


def address(value: object) -> Address:
    """Convert an IPv4 or IPv6 address."""
    try:
        return parse_address(text(value))
    except ValueError:
        raise InvalidValueError(
            "invalid-address", f'invalid address {shown(value)}; write one like "192.0.2.7"'
        ) from None


def network4(value: object) -> IPv4Network:
    """Convert an IPv4 address or network."""
    try:
        return IPv4Network(text(value))
    except ValueError:
        what = f"invalid IPv4 network {shown(value)}"
        raise InvalidValueError("invalid-address", f'{what}; write one like "192.0.2.7" or "192.0.2.0/24"') from None


def moment(value: object) -> float:
    """Convert a date or a time, of this host's zone unless it has its own, to seconds since the epoch."""
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)
    try:
        if not isinstance(value, datetime):
            raise ValueError
        return value.timestamp()
    except (ValueError, OverflowError):  # outside the years that the system clock represents
        remedy = "write a date without quotes, like 2030-12-31"
        raise InvalidValueError("invalid-date", f"invalid date {shown(value)}; {remedy}") from None


def command(words: Sequence[str]) -> tuple[str, ...]:
    """Convert a command, by its full path or a name in PATH, and its arguments; no shell is involved."""
    if not words:
        raise InvalidValueError(
            "empty-command", 'the command is empty; write a command and its arguments, like ["/usr/bin/logger", "%IP%"]'
        )
    if not words[0] or ("/" in words[0] and not words[0].startswith("/")):
        raise InvalidValueError(
            "invalid-program-path", f'invalid program path {shown(words[0])}; write a full path, like "/usr/bin/logger"'
        )
    if any("\0" in word for word in words):
        raise InvalidValueError("nul-in-argument", "an argument contains a NUL; remove it")
    return tuple(words)


def sequence(ports: Sequence[Port]) -> tuple[Port, ...]:
    """Convert the port sequence of a door."""
    if not ports:
        raise InvalidValueError(
            "empty-sequence", "the sequence is empty; list its ports, or leave `knock` out to use `doorward open` only"
        )
    if len(ports) > MAX_SEQUENCE:
        raise InvalidValueError("sequence-too-long", f"{len(ports)} knocks are too many; write at most {MAX_SEQUENCE}")
    return tuple(ports)


def opens(ports: Sequence[Item]) -> tuple[Item, ...]:
    """Convert the ports that a door opens."""
    if not ports:
        raise InvalidValueError("empty-list", 'the list is empty; name what the door opens, like opens = ["22/tcp"]')
    if len(ports) > MAX_OPENS:
        raise InvalidValueError("too-many-ports", f"{len(ports)} ports are too many; write at most {MAX_OPENS}")
    return distinct(ports)


def interfaces(names: Sequence[str]) -> tuple[str, ...]:
    """Convert the list of watched interfaces."""
    if not names:
        raise InvalidValueError(
            "empty-list", "the list is empty; name one, or leave `interfaces` out to watch all but lo"
        )
    return distinct(names)


def distinct(items: Sequence[Item]) -> tuple[Item, ...]:
    """Return the items. Raises ValueError for a duplicate."""
    if len(set(items)) < len(items):
        twice = next(item for index, item in enumerate(items) if item in items[:index])
        raise InvalidValueError("duplicate-entry", f"duplicate entry '{twice}'; write it once")
    return tuple(items)


def public(ranges: Sequence[Sequence[Port]]) -> tuple[Port, ...]:
    """Join ranges, which may overlap; each port is kept once, at its first position."""
    return tuple(dict.fromkeys(port for ports in ranges for port in ports))


def flags(words: Sequence[str]) -> FlagFilter:
    """Convert the TCP flags of a knock packet."""
    return FlagFilter.parse(tuple(words))
