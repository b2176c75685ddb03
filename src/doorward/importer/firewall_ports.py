"""What the commands of all firewalls share: the parsed rule, sources and ports."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from doorward.config.values import MAX_OPENS
from doorward.errors import InvalidValueError
from doorward.model import Port, Protocol

# Returns the port of a service with a protocol, or None.
Service = Callable[[str, Protocol], int | None]

PROTOCOLS = {"tcp": Protocol.TCP, "6": Protocol.TCP, "udp": Protocol.UDP, "17": Protocol.UDP}
_SOURCES = {"%IP%", "%IP%/32", "%IP%/128"}
_RANGE = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")


class NotUnderstoodError(InvalidValueError):
    """A command cannot be converted; the text is the reason."""


class ParsedRule(NamedTuple):
    """A command that opens (or closes) these ports for `%IP%`; `for_s` if it sets the time itself."""

    opens: bool
    tool: str
    ports: tuple[Port, ...]
    for_s: int | None = None
    remarks: tuple[str, ...] = ()


def is_source(word: str) -> bool:
    """Return whether a word is exactly the address that knocked."""
    return word in _SOURCES


def build_rule(
    opens: bool, tool: str, ports: Sequence[Port], *, for_s: int | None = None, remarks: Iterable[str] = ()
) -> ParsedRule:
    """Return a rule. Raises NotUnderstoodError if a door cannot open that many ports."""
    if not 1 <= len(ports) <= MAX_OPENS:
        raise NotUnderstoodError("too-many-ports", f"it opens {len(ports)} ports, and a door opens at most {MAX_OPENS}")
    return ParsedRule(opens, tool, tuple(ports), for_s, tuple(remarks))


def parse_ports(text: str, protocol: str | None, service: Service) -> tuple[Port, ...]:
    """Parse `22`, `ssh`, `80,443` or `6000-6010`; without a protocol, for both tcp and udp."""
    if protocol is not None and protocol.lower() not in PROTOCOLS:
        raise NotUnderstoodError("unknown-protocol", f"the protocol {protocol!r} is neither tcp nor udp")
    protocols = list(Protocol) if protocol is None else [PROTOCOLS[protocol.lower()]]
    ports = [port for word in text.split(",") for port in _ports(word.strip(), protocols, service)]
    return tuple(dict.fromkeys(ports))


def _ports(word: str, protocols: Sequence[Protocol], service: Service) -> list[Port]:
    match = _RANGE.fullmatch(word)
    if match is None:
        numbers = [(protocol, service(word, protocol)) for protocol in protocols]
        ports = [Port(protocol, number) for protocol, number in numbers if number is not None]
        if not ports:
            raise NotUnderstoodError("unknown-port", f"unknown port or service {word!r}")
        return ports
    first, last = int(match[1]), int(match[2] or match[1])
    if not 1 <= first <= last <= 65535:
        raise NotUnderstoodError("invalid-port", f"invalid port {word!r}")
    if last - first >= MAX_OPENS:
        raise NotUnderstoodError(
            "too-many-ports", f"it opens {last - first + 1} ports, and a door opens at most {MAX_OPENS}"
        )
    return [Port(protocol, number) for number in range(first, last + 1) for protocol in protocols]
