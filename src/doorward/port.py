"""Ports and their notation; apart from `model`, since a knock needs nothing else of it."""

from __future__ import annotations

from enum import IntEnum

from doorward.errors import InvalidValueError
from doorward.named_tuple import NamedTuple


class Protocol(IntEnum):
    """Transport protocols that carry knocks, by their IANA protocol number."""

    TCP = 6
    UDP = 17


_MOST_DIGITS = 5


class Port(NamedTuple):
    """A transport protocol and a port from 1 to 65535: one step of a knock, or a port that a door opens."""

    protocol: Protocol
    number: int

    @classmethod
    def parse(cls, text: str) -> Port:
        """Parse `7000/tcp` (nmap, services(5)) or `7000:tcp` (knockd). Raises ValueError with fault and remedy."""
        digits, _, name = text.strip().replace(":", "/", 1).partition("/")
        is_number = digits.isascii() and digits.isdigit() and len(digits) <= _MOST_DIGITS
        if not is_number or name.upper() not in Protocol.__members__:
            raise InvalidValueError("invalid-port", f"invalid port {text!r}; write it as 7000/tcp or 7000/udp")
        number = int(digits)
        if not 1 <= number <= 65535:
            raise InvalidValueError("port-range", f"port {number} does not exist; write a number from 1 to 65535")
        return cls(Protocol[name.upper()], number)

    def __str__(self) -> str:
        return f"{self.number}/{self.protocol.name.lower()}"


DEFAULT_SIGNED_PORT = Port(Protocol.UDP, 62201)  # fwknop's port; no other service uses it
