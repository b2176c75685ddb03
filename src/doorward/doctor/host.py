"""What is known of the host: facts that facts.py gathers and the judgements look at."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network
from typing import Any, NamedTuple

from doorward.doctor.rules import ForeignRuleset, Helper
from doorward.kernel.ssh_session import SshConnection
from doorward.model import Address, Port


class Local(NamedTuple):
    """An address of this host, with its network."""

    interface: str
    address: IPv4Interface | IPv6Interface


class Route(NamedTuple):
    """Where packets to a network leave."""

    network: IPv4Network | IPv6Network
    interface: str


class MarkRule(NamedTuple):
    """A routing rule (ip-rule(8)) that looks at these bits of the mark."""

    value: int
    mask: int


class Network(NamedTuple):
    """Addresses, routes of the main table, rules that look at marks."""

    locals: tuple[Local, ...]
    routes: tuple[Route, ...]
    mark_rules: tuple[MarkRule, ...] = ()

    def interface_of(self, address: Address) -> str | None:
        """Give the interface that has this address of the host's."""
        return next((local.interface for local in self.locals if local.address.ip == address), None)

    def way_to(self, address: Address) -> str | None:
        """Give the interface by which packets to an address leave."""
        fitting = [
            route for route in self.routes if route.network.version == address.version and address in route.network
        ]
        return max(fitting, key=lambda route: route.network.prefixlen).interface if fitting else None


class Probe(NamedTuple):
    """A connection to try: from the operator's address, or from strangers', of whom one that gets in is enough.

    `published` is the port that is forwarded to this destination, where it is tried without a knock.
    """

    port: Port
    interface: str
    sources: tuple[Address, ...]
    destination: Address
    is_operator: bool
    is_knock: bool = False
    published: Port | None = None


class Base(NamedTuple):
    """Where packets enter a table."""

    chain: str
    hook: str
    priority: int


class Block(NamedTuple):
    """A rule, or a policy, that drops a packet."""

    table: ForeignRuleset
    base: Base
    rule: str


class Way(NamedTuple):
    """What became of a packet: `state` is new or established, `arrival` the port that it reached.

    `forwarded_to` is the address of another host that has the port.

    The rules that dropped it were each left out after that, so that all of them are found.
    """

    probe: Probe
    state: str
    blocks: tuple[Block, ...]
    arrival: Port | None
    forwarded_to: Address | None = None


class Unchecked(NamedTuple):
    """A rule that could not be tried, or why nothing could; `is_outward` where only what leaves the host meets it."""

    what: str
    is_outward: bool = False


class Trace(NamedTuple):
    """What the kernel did with the packets, in a copy of this host's network and of its firewalls' tables."""

    tables: tuple[str, ...] = ()
    ways: tuple[Way, ...] = ()
    unchecked: tuple[Unchecked, ...] = ()
    helpers: tuple[Helper, ...] = ()


class Boot(NamedTuple):
    """What starts at boot: whether systemd runs here, and which of doorward's units are enabled."""

    systemd: bool
    units: frozenset[str]


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that was gathered. What could not be read stands in `unread`, and is None or empty in its place."""

    session: SshConnection | None
    network: Network
    listening: frozenset[Port] | None
    trace: Trace
    boot: Boot
    daemon: dict[str, Any] | None  # what it answers to `status`
    table_stands: bool
    is_as_loaded: bool | None  # whether the file compiles to the gate that was loaded last
    refusal: str  # what the kernel or libnftables says against the compiled gate; empty where they take it
    memory_bytes: int
    conntrack: tuple[int, int] | None  # connections tracked now, and at most
    unread: tuple[str, ...] = ()
    assigns_helpers: bool = False  # whether conntrack assigns helpers by port alone, as it may before Linux 6.0
    signed_doors: frozenset[str] = frozenset()  # doors that some authorized key may open
    signed_trouble: str = ""  # why no signed knock would be taken, though `[signed]` stands
    off_since: str = ""  # when doorward was switched off; empty while it is on


def is_watched(interfaces: Iterable[str], name: str) -> bool:
    """Tell whether the gate looks at an interface."""
    named = tuple(interfaces)
    fits = (name.startswith(word[:-1]) if word.endswith("*") else name == word for word in named)
    return any(fits) if named else name != "lo"
