"""Frozen values and their invariants: ports, flag filters, doors, packets and openings.

Named tuples, not dataclasses: those import a compiler's worth of modules, and a knock must leave at once.
"""

from __future__ import annotations

import re
from enum import IntEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import NamedTuple

Address = IPv4Address | IPv6Address
Place = Address | IPv4Network | IPv6Network  # what a door is open to: only a signed knock can ask for a network
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")  # of doors and gates


class Protocol(IntEnum):
    """Transport protocols that carry knocks, by their IANA protocol number."""

    TCP = 6
    UDP = 17


_PORT = re.compile(r"([0-9]{1,5})[/:](tcp|udp)", re.IGNORECASE)


class Port(NamedTuple):
    """A transport protocol and a port from 1 to 65535: a knock's symbol, or what a door opens."""

    protocol: Protocol
    number: int

    @classmethod
    def parse(cls, text: str) -> Port:
        """Read `7000/tcp` (nmap, services(5)) or `7000:tcp` (knockd); ValueError says what is wrong."""
        match = _PORT.fullmatch(text.strip())
        if match is None:
            raise ValueError(f"{text!r} is no port; write it as 7000/tcp or 7000/udp")
        number = int(match[1])
        if not 1 <= number <= 65535:
            raise ValueError(f"port {number} does not exist; write a number from 1 to 65535")
        return cls(Protocol[match[2].upper()], number)

    def __str__(self) -> str:
        return f"{self.number}/{self.protocol.name.lower()}"


DEFAULT_SIGNED_PORT = Port(Protocol.UDP, 62201)  # fwknop's port: nothing else is found there

# The order of the bits in the TCP header (RFC 9293, section 3.1; cwr and ece from RFC 3168).
TCP_FLAGS = {"fin": 1, "syn": 2, "rst": 4, "psh": 8, "ack": 16, "urg": 32, "ece": 64, "cwr": 128}


class FlagFilter(NamedTuple):
    """Which TCP flags a packet must carry: the bits in `mask` are tested, and must equal `value`."""

    mask: int
    value: int

    @classmethod
    def parse(cls, words: tuple[str, ...]) -> FlagFilter:
        """Read `("syn", "!ack")`; ValueError names a word that is no flag or stands twice."""
        mask = value = 0
        for word in words:
            bit = TCP_FLAGS.get(word.removeprefix("!").lower())
            if bit is None:
                raise ValueError(f"{word!r} is no TCP flag; write one of {', '.join(TCP_FLAGS)}, or ! before it")
            if mask & bit:
                raise ValueError(f"the flag {word.removeprefix('!')!r} stands twice; write it once")
            mask |= bit
            value |= 0 if word.startswith("!") else bit
        return cls(mask, value)

    def passes(self, packet_flags: int) -> bool:
        """Tell whether a packet with these flags (bits as in the TCP header) counts."""
        return packet_flags & self.mask == self.value

    def __str__(self) -> str:
        words = [("" if self.value & bit else "!") + name for name, bit in TCP_FLAGS.items() if self.mask & bit]
        return ",".join(words) or "any"


DEFAULT_FLAGS = FlagFilter.parse(("syn", "!ack"))


class Door(NamedTuple):
    """A named thing that a knock opens: how to knock, what opens, for how long.

    `knock` may be empty: such a door opens by hand. `within_ms` counts from the first knock to the last.
    """

    name: str
    knock: tuple[Port, ...]
    opens: tuple[Port, ...]
    within_ms: int = 15_000
    for_ms: int = 30_000
    flags: FlagFilter = DEFAULT_FLAGS
    target: Address | None = None  # knocks go to this address, routed by this host, and not to the host itself
    on_open: tuple[str, ...] = ()  # a program and its words, run on opening; %IP% stands for the address
    on_close: tuple[str, ...] = ()
    shared: bool = False  # with the fleet: openings, and signed knocks that are for all of it

    @property
    def is_opening(self) -> bool:
        """Tell whether a knock opens for a time; else its command runs at every knock, and nothing stays."""
        return bool(self.opens or self.on_close)


class Packet(NamedTuple):
    """What the automaton looks at: packed source address (4 or 16 bytes), destination port, TCP flags.

    `destination` is packed too, and need not be known where no door has a target; `local` tells whether it is
    an address of this host.
    """

    source: bytes
    port: Port
    flags: int = 0
    destination: bytes | None = None
    local: bool = True


def parse_address(text: str) -> Address:
    """Read an address without a scope id. ValueError: it is not one.

    The scope of `fe80::1%eth0` may hold any text, and means something only on the host that wrote it.
    """
    if not isinstance(text, str) or "%" in text:  # a number and bytes are addresses too, to `ip_address`
        raise ValueError(f"invalid address {text!r}: write it as text, without a scope id")
    return ip_address(text)


def parse_place(text: str) -> Place:
    """Read an address, or a network with its prefix length, without a scope id. ValueError: it is neither."""
    if "/" not in text:
        return parse_address(text)
    address, _, prefix = text.partition("/")
    return ip_network(f"{parse_address(address)}/{prefix}")


def place_text(place: Place) -> str:
    """Return a place as text for a program or for nftables, made from its bits alone."""
    if isinstance(place, Address):
        return str(type(place)(int(place)))
    return str(type(place)((int(place.network_address), place.prefixlen)))


def holds(place: Place, address: Address) -> bool:
    """Tell whether an address is the place, or in it."""
    return address == place if isinstance(place, IPv4Address | IPv6Address) else address in place


def places_of(address: Address) -> list[str]:
    """Return an address and all networks that hold it, as records name them."""
    networks = (ip_network(address).supernet(new_prefix=bits) for bits in range(address.max_prefixlen))
    return [str(address), *map(str, networks)]


class Element(NamedTuple):
    """One entry of the gate's open sets: this address, or network, may start connections to this port."""

    address: Place
    port: Port


class Opening(NamedTuple):
    """A door open for one address, or network, until a moment. Times are seconds since the epoch (wall clock)."""

    door: str
    address: Place
    ports: tuple[Port, ...]
    since_s: float
    until_s: float
    by: str

    def elements(self) -> tuple[Element, ...]:
        """Give the entries that this opening keeps in the gate's sets."""
        return tuple(Element(self.address, port) for port in self.ports)
