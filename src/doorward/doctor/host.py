"""The facts about the host that host_state.py collects and the checks read."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network
from typing import Any, NamedTuple

from doorward.doctor.rules import ForeignRuleset, Helper
from doorward.kernel.sock_diag import Connection
from doorward.model import Address, HostPort, Port


class LocalAddress(NamedTuple):
    """An address of this host, with its network."""

    interface: str
    address: IPv4Interface | IPv6Interface

    @property
    def is_external(self) -> bool:
        """Whether other hosts can reach it, beyond its own link."""
        return not (self.address.is_loopback or self.address.is_link_local or self.interface == "lo")


class Route(NamedTuple):
    """A network and the output interface of packets to it."""

    network: IPv4Network | IPv6Network
    interface: str


class MarkRule(NamedTuple):
    """A routing rule (ip-rule(8)) that matches these bits of the mark."""

    value: int
    mask: int


class Network(NamedTuple):
    """The host's addresses, routes of the main table, and routing rules that match marks."""

    locals: tuple[LocalAddress, ...]
    routes: tuple[Route, ...]
    mark_rules: tuple[MarkRule, ...] = ()

    def interface_with(self, address: Address) -> str | None:
        """Return the interface that has this address of the host."""
        return next((local.interface for local in self.locals if local.address.ip == address), None)

    def output_interface(self, address: Address) -> str | None:
        """Return the output interface of packets to an address."""
        fitting = [
            route for route in self.routes if route.network.version == address.version and address in route.network
        ]
        return max(fitting, key=lambda route: route.network.prefixlen).interface if fitting else None


class Probe(NamedTuple):
    """A connection to test: from the operator's address, or from those of other clients, one of which must get in.

    `published` is the port that is forwarded to this destination, if it is tested without a knock; `is_behind` is
    whether a door opens this port of another host.
    """

    port: Port
    interface: str
    sources: tuple[Address, ...]
    destination: Address
    is_operator: bool
    is_knock: bool = False
    published: Port | None = None
    is_behind: bool = False

    @property
    def opened(self) -> Port | HostPort:
        """What the door opens, for a probe of a door."""
        return HostPort(*self.port, self.destination) if self.is_behind else self.port

    @property
    def is_of_own_door(self) -> bool:
        """Whether it tests a door to a port of this host."""
        return not (self.is_knock or self.published or self.is_behind)


class BaseChain(NamedTuple):
    """A base chain, at which packets enter a table."""

    chain: str
    hook: str
    priority: int


class Block(NamedTuple):
    """A rule or policy that drops a packet."""

    table: ForeignRuleset
    base: BaseChain
    rule: str


class PacketPath(NamedTuple):
    """The path of a packet: `state` is new or established, `arrival` the port that it reached.

    `forwarded_to` is the address of the other host that has the port. After a rule dropped the packet, the packet was
    sent again without that rule, so `blocks` has all of them.
    """

    probe: Probe
    state: str
    blocks: tuple[Block, ...]
    arrival: Port | None
    forwarded_to: Address | None = None


class Unchecked(NamedTuple):
    """A rule that could not be tested, or why none could; `is_outward` if it sees only packets that leave the host."""

    what: str
    is_outward: bool = False


class OwnDrop(NamedTuple):
    """A rule of `doctor --fix` that drops unmarked packets to `port`, a port or range as in `opens`."""

    rule: str
    port: str


class Trace(NamedTuple):
    """The kernel's verdicts on the packets, in a copy of this host's network and of its firewalls' tables."""

    tables: tuple[str, ...] = ()
    paths: tuple[PacketPath, ...] = ()
    unchecked: tuple[Unchecked, ...] = ()
    helpers: tuple[Helper, ...] = ()
    own_drops: tuple[OwnDrop, ...] = ()


class Boot(NamedTuple):
    """Whether systemd runs here, and which of doorward's units are enabled."""

    systemd: bool
    units: frozenset[str]


@dataclass(frozen=True, slots=True)
class Facts:
    """All collected facts. One that could not be read is None or empty, and `unread` says why."""

    session: Connection | None
    network: Network
    listening: frozenset[Port] | None
    trace: Trace
    boot: Boot
    daemon: dict[str, Any] | None  # its answer to `status`
    is_table_loaded: bool | None  # None: unknown
    is_as_loaded: bool | None  # whether the file still compiles to the ruleset that was last loaded
    rejection: str  # why the kernel or libnftables rejects the compiled ruleset; empty if they accept it
    memory_bytes: int
    conntrack: tuple[int, int] | None  # tracked connections, and their maximum
    unread: tuple[str, ...] = ()
    assigns_helpers: bool = False  # whether conntrack assigns helpers by port, as Linux before 6.0 can
    signed_doors: frozenset[str] = frozenset()  # doors that some authorized key may open
    signed_error: str = ""  # why signed knocks fail although `[signed]` is configured
    off_since: str = ""  # when doorward was switched off; empty while it is on
    firewalld_has_rules: bool = False  # whether it keeps some of `doctor --fix`
    can_shield: bool = False  # whether doorward was built with the shield, for a kernel like this one
    forwarding: frozenset[int] = frozenset((4, 6))  # the address families of which this host forwards packets
