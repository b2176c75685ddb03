"""Frozen values and their invariants: ports, flag filters, doors, packets and openings.

Named tuples, not dataclasses: `dataclasses` imports many modules, and a signed knock must start fast.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from doorward.errors import InvalidValueError
from doorward.named_tuple import NamedTuple
from doorward.port import DEFAULT_SIGNED_PORT as DEFAULT_SIGNED_PORT
from doorward.port import Port as Port
from doorward.port import Protocol as Protocol

Address = IPv4Address | IPv6Address
Source = Address | IPv4Network | IPv6Network  # the source of an opening; only a signed knock can request a network
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")  # of doors and gates


BY_FLEET = "fleet "  # before the signer, in the holder of a share that another gate announced
BY_BROWSER = " (browser)"  # behind the name of a key whose knock came from a browser
BY_KEY = "key "  # in `Opening.by`, before the name of the key that signed a knock
BY_FWKNOP = "fwknop "  # before the name of a stanza whose shared key made a knock
MAX_SIGNED_PORTS = 8  # a client tries one per attempt, and its user waits: the eighth attempt comes after 46 seconds


def as_signed_ports(ports: Sequence[Port]) -> tuple[Port, ...]:
    """Return the ports for signed knocks, in the order to try. Raises ValueError with fault and remedy."""
    if not 1 <= len(ports) <= MAX_SIGNED_PORTS:
        raise InvalidValueError("port-count", f"{len(ports)} ports for signed knocks; write 1 to {MAX_SIGNED_PORTS}")
    for index, port in enumerate(ports):
        if port.protocol is not Protocol.UDP:
            raise InvalidValueError(
                "not-udp-port", f"{port} is not a UDP port, which signed knocks need; write {port.number}/udp"
            )
        if port in ports[:index]:
            raise InvalidValueError("duplicate-port", f"duplicate port {port}; write it once")
    return tuple(ports)


class SecretBytes(bytes):
    """A secret. Neither its repr nor its text reveals it."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    __str__ = __repr__


# The order of the bits in the TCP header (RFC 9293, section 3.1; cwr and ece from RFC 3168).
TCP_FLAGS = {"fin": 1, "syn": 2, "rst": 4, "psh": 8, "ack": 16, "urg": 32, "ece": 64, "cwr": 128}


class FlagFilter(NamedTuple):
    """TCP flags that a packet must carry: the bits in `mask` are tested and must equal `value`."""

    mask: int
    value: int

    @classmethod
    def parse(cls, words: tuple[str, ...]) -> FlagFilter:
        """Parse `("syn", "!ack")`. Raises ValueError for an unknown or repeated flag."""
        mask = value = 0
        for word in words:
            bit = TCP_FLAGS.get(word.removeprefix("!").lower())
            if bit is None:
                raise InvalidValueError(
                    "unknown-flag", f"unknown TCP flag {word!r}; write one of {', '.join(TCP_FLAGS)}, or ! before it"
                )
            if mask & bit:
                raise InvalidValueError("duplicate-flag", f"duplicate flag {word.removeprefix('!')!r}; write it once")
            mask |= bit
            value |= 0 if word.startswith("!") else bit
        return cls(mask, value)

    def passes(self, packet_flags: int) -> bool:
        """Return whether a packet with these flags (bits as in the TCP header) matches."""
        return packet_flags & self.mask == self.value

    def __str__(self) -> str:
        words = [("" if self.value & bit else "!") + name for name, bit in TCP_FLAGS.items() if self.mask & bit]
        return ",".join(words) or "any"


DEFAULT_FLAGS = FlagFilter.parse(("syn", "!ack"))


_HOST_PORT = re.compile(r"(\[[^]]*\]|[^]:[]+):([0-9]+/[A-Za-z]+)")


class HostPort(NamedTuple):
    """A port of a host behind this one, to which this host forwards packets."""

    protocol: Protocol
    number: int
    host: Address

    @classmethod
    def parse(cls, text: str) -> HostPort | None:
        """Parse `192.0.2.7:22/tcp` or `[2001:db8::7]:22/tcp`; None for a port without a host. Raises ValueError."""
        match = _HOST_PORT.fullmatch(text.strip())
        if match is None:
            return None
        try:
            host = parse_address(match[1].strip("[]"))
        except ValueError:
            host = None
        if host is None or (host.version == 6) != match[1].startswith("["):
            raise InvalidValueError(
                "invalid-address", f"invalid address {match[1]!r}; write 192.0.2.7:22/tcp or [2001:db8::7]:22/tcp"
            )
        mapped = isinstance(host, IPv6Address) and host.ipv4_mapped is not None
        if mapped or host.is_unspecified or host.is_multicast or host.is_loopback or host.is_link_local:
            raise InvalidValueError(
                "not-forwarded", f"no packet is forwarded to {host}; write the address of a host behind this one"
            )
        port = Port.parse(match[2])
        return cls(port.protocol, port.number, host)

    def __str__(self) -> str:
        host = f"[{self.host}]" if self.host.version == 6 else str(self.host)
        return f"{host}:{Port(self.protocol, self.number)}"


class Redirect(NamedTuple):
    """A port of this host that an opening forwards to a host behind it."""

    port: Port
    to: HostPort

    @classmethod
    def parse(cls, text: str) -> Redirect | None:
        """Parse `2222/tcp -> 192.0.2.7:22`; None without an arrow. Raises ValueError."""
        here, arrow, there = text.partition("->")
        if not arrow:
            return None
        port = Port.parse(here)
        protocol = port.protocol.name.lower()
        to = HostPort.parse(there if "/" in there else f"{there.strip()}/{protocol}")
        if to is None or to.protocol is not port.protocol:
            raise InvalidValueError(
                "invalid-redirect",
                f"invalid target {there.strip()!r}; write {port} -> 192.0.2.7:22 or [2001:db8::7]:22",
            )
        return cls(port, to)

    def __str__(self) -> str:
        return f"{self.port} -> {str(self.to).partition('/')[0]}"


_RANGE = re.compile(r"([0-9]{1,5})-([0-9]{1,5})([/:][A-Za-z]+)")


class PortRange(NamedTuple):
    """Ports of this host from `number` to `last`."""

    protocol: Protocol
    number: int
    last: int

    @classmethod
    def parse(cls, text: str) -> PortRange | None:
        """Parse `60000-61000/udp`; None for a single port. Raises ValueError."""
        match = _RANGE.fullmatch(text.strip())
        if match is None:
            return None
        first, last = (Port.parse(number + match[3]) for number in match.group(1, 2))
        if first > last:
            raise InvalidValueError("reversed-range", f'{text.strip()!r} runs backwards; write "{last.number}-{first}"')
        return cls(first.protocol, first.number, last.number)

    @property
    def first(self) -> Port:
        """The port that the open sets have for the range."""
        return Port(self.protocol, self.number)

    def includes(self, port: Port) -> bool:
        """Return whether a port is one of them."""
        return port.protocol is self.protocol and self.number <= port.number <= self.last

    def ports(self) -> Iterator[Port]:
        """Yield its ports."""
        return (Port(self.protocol, number) for number in range(self.number, self.last + 1))

    def __str__(self) -> str:
        return f"{self.number}-{self.last}/{self.protocol.name.lower()}"


OpenPort = Port | PortRange | HostPort  # what a door opens: of this host, or of one behind it
SetPort = Port | HostPort  # how the open sets name it


def parse_open_port(text: str) -> OpenPort:
    """Parse what a door opens, as `str` writes it. Raises ValueError with fault and remedy."""
    return PortRange.parse(text) or HostPort.parse(text) or Port.parse(text)


def set_port(port: OpenPort) -> SetPort:
    """Return the port in the open sets that opens this: of a range the first."""
    return port.first if isinstance(port, PortRange) else port


class Door(NamedTuple):
    """A named set of ports that a knock opens: the port sequence, the ports, the duration.

    `knock` may be empty: the door is then opened by a signed knock or `doorward open`. `within_ms` runs from the first
    knock packet to the last. `opens` and `ranges` are ports of this host, `behind` those of hosts behind it.
    """

    name: str
    knock: tuple[Port, ...]
    opens: tuple[Port, ...]
    within_ms: int = 15_000
    for_ms: int = 30_000
    flags: FlagFilter = DEFAULT_FLAGS
    target: Address | None = None  # the address that knocks are sent to, if it is not this host but one behind it
    on_open: tuple[str, ...] = ()  # a command and its arguments, run on opening; %IP% is replaced by the address
    on_close: tuple[str, ...] = ()
    shared: bool = False  # its openings, and signed knocks addressed to the whole fleet, are shared with the fleet
    once: bool = False  # an opening lets one TCP connection in
    behind: tuple[HostPort, ...] = ()
    ranges: tuple[PortRange, ...] = ()
    redirects: tuple[Redirect, ...] = ()  # their ports are in `opens`
    masquerade: bool = False  # redirected connections come from this host's address

    @property
    def is_opening(self) -> bool:
        """Return whether the door has an open state; otherwise each knock just runs its command."""
        return bool(self.all_opens or self.on_close)

    @property
    def all_opens(self) -> tuple[OpenPort, ...]:
        """Everything that the door opens."""
        return (*self.opens, *self.ranges, *self.behind) if self.ranges or self.behind else self.opens

    def opens_port(self, port: Port) -> bool:
        """Return whether the door opens this port of this host."""
        return port in self.opens or any(span.includes(port) for span in self.ranges)

    @property
    def is_for_one_possible(self) -> bool:
        """Return whether an opening may be for one connection: only if it is of TCP ports alone."""
        opened = self.all_opens
        return bool(opened) and all(port.protocol is Protocol.TCP for port in opened)

    @property
    def leads_to(self) -> tuple[HostPort, ...]:
        """The ports of hosts behind this one that the door opens or forwards to."""
        return (*self.behind, *(redirect.to for redirect in self.redirects))

    def opens_to(self, source: Source) -> tuple[OpenPort, ...]:
        """Return what the door opens to a source: hosts behind this one are reached from their address family only."""
        elsewhere = {each.port for each in self.redirects}
        elsewhere -= {each.port for each in self.redirects if each.to.host.version == source.version}
        behind = (port for port in self.behind if port.host.version == source.version)
        return (*(port for port in self.opens if port not in elsewhere), *self.ranges, *behind)

    def exclusion(self, source: Source) -> str:
        """Return why a source cannot reach anything that the door opens, or "": it is of the other address family."""
        if not self.leads_to or self.opens_to(source):
            return ""
        return f"door {self.name} opens only IPv{self.leads_to[0].host.version} hosts; use that address family"


class Packet(NamedTuple):
    """The fields that the automaton matches: packed source address (4 or 16 bytes), destination port, TCP flags.

    `destination` is packed too and may be None where no door has a target; `local` is true if it is an address of
    this host.
    """

    source: bytes
    port: Port
    flags: int = 0
    destination: bytes | None = None
    local: bool = True


def parse_address(text: str) -> Address:
    """Parse an address without a scope id. Raises ValueError for anything else.

    The scope of `fe80::1%eth0` may hold any text and is meaningful only on the host that wrote it.
    """
    if not isinstance(text, str) or "%" in text:  # `ip_address` also accepts numbers and bytes
        raise InvalidValueError("invalid-address", f"invalid address {text!r}: write it as text, without a scope id")
    return ip_address(text)


def parse_source(text: str) -> Source:
    """Parse an address or a network in CIDR notation, without a scope id. Raises ValueError for anything else."""
    if "/" not in text:
        return parse_address(text)
    address, _, prefix = text.partition("/")
    return ip_network(f"{parse_address(address)}/{prefix}")


def source_text(source: Source) -> str:
    """Return an address or network as text for a command or for nftables, built from its bits alone."""
    if isinstance(source, Address):
        return str(type(source)(int(source)))
    return str(type(source)((int(source.network_address), source.prefixlen)))


def holds(source: Source, address: Address) -> bool:
    """Return whether `address` equals an address or belongs to a network."""
    return address == source if isinstance(source, IPv4Address | IPv6Address) else address in source


def sources_with(address: Address) -> list[str]:
    """Return an address and all networks that contain it, as the ledger writes them."""
    networks = (ip_network(address).supernet(new_prefix=bits) for bits in range(address.max_prefixlen))
    return [str(address), *map(str, networks)]


class Element(NamedTuple):
    """One element of the nftables open sets: this address or network may start connections to this port.

    `once`: one TCP connection, with which the kernel removes the element.
    """

    address: Source
    port: SetPort
    once: bool = False


def elements_of(doors: Iterable[Door], source: Source) -> tuple[Element, ...]:
    """Return the set elements that open these doors to a source."""
    return tuple(Element(source, set_port(port), door.once) for door in doors for port in door.opens_to(source))


class Share(NamedTuple):
    """What one holder has of an opening: its end, and the date of the newest knock that made it.

    `by` identifies the holder: a signer's hash, "knock", "hand", or of what other gates announced "fleet", or "fleet "
    and a signer's hash. `dated_ms` 0: no signed knock made it. `name` is for users. `once`: it is for one connection,
    which all such shares of an opening have in common.
    """

    by: str
    until_s: float
    dated_ms: int = 0
    name: str = ""
    once: bool = False

    @property
    def signer(self) -> str:
        """The hash of the key whose knock made it, at this or another gate; "": no signed knock did."""
        return self.by.removeprefix(BY_FLEET) if self.dated_ms else ""


class Opening(NamedTuple):
    """A door open to one address or network until a time: in seconds, of the daemon's clock or, if recorded, wall time.

    `by` opened it. It ends with the last of its `shares`; without any, `by` alone holds it.
    """

    door: str
    address: Source
    ports: tuple[OpenPort, ...]
    since_s: float
    until_s: float
    by: str
    shares: tuple[Share, ...] = ()

    @property
    def key(self) -> tuple[str, Source]:
        """Door and address: there is one opening of each pair."""
        return self.door, self.address

    def ends(self) -> dict[bool, float]:
        """Return when it ends for any number of connections (False) and for one (True), if it is open for that."""
        once_s = max((share.until_s for share in self.shares if share.once), default=None)
        if once_s is None:
            return {False: self.until_s}
        others_s = max((share.until_s for share in self.shares if not share.once), default=None)
        return {True: once_s} if others_s is None else {False: others_s, True: once_s}

    def shifted(self, by_s: float) -> Opening:
        """Return it in the times of another clock, for example wall time."""
        shares = tuple(share._replace(until_s=share.until_s + by_s) for share in self.shares)
        return self._replace(since_s=self.since_s + by_s, until_s=self.until_s + by_s, shares=shares)

    def elements(self) -> tuple[Element, ...]:
        """Return the elements of this opening in the nftables open sets."""
        return tuple(Element(self.address, set_port(port), once) for once in self.ends() for port in self.ports)
