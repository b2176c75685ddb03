"""Sets of ports in the notation of nmap: `1-1024,7000/udp`. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from doorward.errors import InvalidValueError
from doorward.model import Port, Protocol

LAST_PORT = 65535
MAX_RANGES = 8  # in a message; the rest are counted
_ITEM = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?(?:[/:](tcp|udp))?", re.IGNORECASE)

Ports = frozenset[Port]


def parse_ports(text: str) -> Ports:
    """Parse `22`, `1-1024`, `7000/udp` and comma-separated lists of them; ValueError says what is wrong."""
    return frozenset(port for item in text.split(",") for port in _item(item.strip()))


def _item(text: str) -> Iterator[Port]:
    match = _ITEM.fullmatch(text)
    if match is None:
        raise InvalidValueError(
            "invalid-port", f"invalid port {text[:40]!r}: expected 22, 1-1024, 7000/udp, or several separated by commas"
        )
    first, last = int(match[1]), int(match[2] or match[1])
    if not 1 <= first <= LAST_PORT or not 1 <= last <= LAST_PORT:
        raise InvalidValueError("port-range", f"invalid port {text!r}: ports are 1 to {LAST_PORT}")
    if last < first:
        raise InvalidValueError("reversed-range", f"invalid range {text!r}: write {last}-{first}")
    protocol = Protocol[(match[3] or "tcp").upper()]
    return (Port(protocol, number) for number in range(first, last + 1))


def port_numbers(ports: Iterable[Port], protocol: Protocol) -> list[int]:
    """Return the numbers of one protocol's ports, ascending."""
    return sorted(port.number for port in ports if port.protocol is protocol)


def port_ranges(numbers: Iterable[int]) -> list[str]:
    """Return ascending numbers as ranges: `1-3`, `7`."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return [f"{first}" if first == last else f"{first}-{last}" for first, last in ranges]


def ports_text(ports: Iterable[Port], most: int = MAX_RANGES) -> str:
    """Return ports for a message: `22/tcp, 80-82/tcp, 53/udp`, and the number beyond `most` ranges."""
    known = set(ports)
    written: list[tuple[str, Protocol]] = []
    for protocol in Protocol:
        written += [(text, protocol) for text in port_ranges(port_numbers(known, protocol))]
    shown = ", ".join(f"{text}/{protocol.name.lower()}" for text, protocol in written[:most])
    left = len(written) - most
    return shown if left <= 0 else f"{shown} and {left} more"


def count_text(ports: Iterable[Port]) -> str:
    """Return the number of ports by protocol: `65,535 TCP and 2 UDP ports`."""
    known = list(ports)
    counts = [(len(port_numbers(known, protocol)), protocol.name) for protocol in Protocol]
    words = [f"{count:,} {name}" for count, name in counts if count]
    return f"{' and '.join(words) or 'no'} {'port' if len(known) == 1 else 'ports'}"
