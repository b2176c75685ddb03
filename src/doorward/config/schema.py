"""Every setting with its default and its limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Network
from typing import NamedTuple

from doorward.model import DEFAULT_SIGNED_PORT, Door, Port

MAX_SEQUENCE = 32  # knock packets; a longer sequence is not safer, and failure links stay at most 31 long
MAX_CAPACITY = 1 << 24  # elements per set; 16 million are gigabytes of kernel memory
DEFAULT_CAPACITY = 1 << 20
SHORT_WINDOW_MS = 2000  # the deadline of sources in the overflow set: capacity / 2 s = 500,000 first knocks per second
# Replaced in a hook's arguments: the address, and why it was rejected.
ADDRESS_PLACEHOLDER, REASON_PLACEHOLDER = "%IP%", "%REASON%"
# Ports to which browsers send no WebRTC packets.
BROWSER_REFUSED_PORTS = frozenset(range(1024)) - {80, 443} | {5060, 6000, 6667, 10080}
FWKNOP_KEYS = "fwknop.keys"  # the file of the shared keys
MAX_STANZAS = 1000  # of [fwknop]; the HMAC of each is tried, which takes 1.3 ms then
SHORTEST_TRIAL_MS, LONGEST_TRIAL_MS = 1000, 86_400_000


class Mode(StrEnum):
    """Which ports the gate hides."""

    OBSERVE = "observe"  # match, never drop
    GUARD = "guard"  # hide the doors' ports
    STEALTH = "stealth"  # hide everything that is not public


class WrongPort(StrEnum):
    """Which ports reset a knock in progress."""

    ANY = "any"
    KNOWN = "known"  # only ports that occur in a sequence, as knockd behaves in practice


class Shield(StrEnum):
    """Whether an early drop in BPF is in front of the gate."""

    OFF = "off"
    AUTO = "auto"  # where the kernel can
    ON = "on"  # the same, and `doctor` reports an error where it cannot
    XDP = "xdp"  # the same, and in drivers that run XDP programs


class EtcdOutagePolicy(StrEnum):
    """What a shared door does with a signed knock while etcd does not answer."""

    CLOSED = "closed"  # reject it: it may have been used at another gate
    LOCAL = "local"  # accept it if this gate has not seen it


class Hmac(StrEnum):
    """The hash of the HMAC of fwknop's packets."""

    SHA256 = "sha256"
    SHA384 = "sha384"
    SHA512 = "sha512"
    SHA3_256 = "sha3_256"
    SHA3_512 = "sha3_512"


class Mark(NamedTuple):
    """Bits of the packet mark: doorward sets the bits in `mask` to `value`."""

    value: int
    mask: int

    def __str__(self) -> str:
        return f"{self.value:#x}/{self.mask:#x}"


@dataclass(frozen=True, slots=True)
class Gate:
    """The table `[gate]`. `capacity` None: the default, less on hosts with little memory."""

    mode: Mode = Mode.GUARD
    interfaces: tuple[str, ...] = ()  # empty: every interface except lo
    public: tuple[Port, ...] = ()
    wrong_port: WrongPort = WrongPort.ANY
    ping: bool = True
    capacity: int | None = None
    name: str | None = None
    control_group: str | None = None  # the group that may use the control socket, besides root
    accept_mark: Mark | None = None  # set on packets admitted through an opening, for another firewall to accept
    on_refuse: tuple[str, ...] = ()  # a command and its arguments, run on rejected knocks, a few per minute
    address: str | None = None  # the host name or address that clients are given
    shield: Shield = Shield.OFF


@dataclass(frozen=True, slots=True)
class Signed:
    """The table `[signed]`. Relative paths are resolved against the configuration directory.

    `window_ms`: how far the sender's clock may differ, in either direction. `confirm`: a knock that opened or closed a
    door is confirmed to its sender. `browser`: knocks are also accepted in STUN frames, from browsers.
    """

    ports: tuple[Port, ...] = (DEFAULT_SIGNED_PORT,)
    key: str = "server.key"
    authorized_keys: str = "authorized_keys"
    window_ms: int = 60_000
    confirm: bool = False
    browser: bool = False


@dataclass(frozen=True, slots=True)
class FwknopStanza:
    """A table `[fwknop.stanzas.NAME]`: what the holder of one shared key may open, as in fwknop's access.conf.

    A packet requests ports: it opens the doors that open only these. `ports`: what it may request besides the doors'
    own, for doors that run commands. `sources`: where it may come from; empty: anywhere. `hmac` is a hash of
    fwknop/spa_packet.py.
    """

    name: str
    doors: tuple[str, ...] = ()
    ports: tuple[Port, ...] = ()
    sources: tuple[IPv4Network, ...] = ()
    for_ms: int = 30_000
    for_max_ms: int = 300_000
    username: str | None = None
    require_source_address: bool = True
    expires_s: float | None = None
    hmac: Hmac = Hmac.SHA256
    insecure_no_hmac: bool = False


@dataclass(frozen=True, slots=True)
class Fwknop:
    """The table `[fwknop]`: packets of fwknop's clients are accepted beside signed knocks.

    `keys`: the file of the shared keys, relative to the configuration directory. `window_ms`: as in `Signed`.
    """

    port: Port = DEFAULT_SIGNED_PORT
    keys: str = FWKNOP_KEYS
    window_ms: int = 120_000
    stanzas: tuple[FwknopStanza, ...] = ()


def longest_window_ms(signed: Signed | None, fwknop: Fwknop | None) -> int:
    """Return by how much the date of an accepted packet may differ from the clock: a used one is known as long."""
    return max((table.window_ms for table in (signed, fwknop) if table is not None), default=0)


@dataclass(frozen=True, slots=True)
class Fleet:
    """The table `[fleet]`: the gates that share openings, and the etcd cluster that they use.

    Relative paths are resolved against the configuration directory; an empty path is unset. `timeout_ms`: how long to
    wait for an answer. `for_max_ms`: for how long the fleet may open a shared door here; None: for the door's own
    `for`.
    """

    name: str
    endpoints: tuple[str, ...]
    ca: str = ""
    certificate: str = ""
    key: str = ""
    user: str = ""
    password: str = ""
    policy: EtcdOutagePolicy = EtcdOutagePolicy.CLOSED
    timeout_ms: int = 500
    plain: bool = False
    for_max_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Configuration:
    """A valid configuration, doors in the order of the file.

    `signed` None: no signed knocks; `fleet` None: not in a fleet; `fwknop` None: no packets of fwknop's clients.
    """

    gate: Gate
    doors: tuple[Door, ...]
    signed: Signed | None = None
    fleet: Fleet | None = None
    fwknop: Fwknop | None = None

    @property
    def signed_ports(self) -> tuple[Port, ...]:
        """The ports for signed knocks, which fwknop's is too."""
        if self.signed is None:
            return ()
        more = () if self.fwknop is None else (self.fwknop.port,)
        return tuple(dict.fromkeys((*self.signed.ports, *more)))

    @property
    def is_for_browsers(self) -> bool:
        """Whether signed knocks are also accepted from browsers."""
        return self.signed is not None and self.signed.browser

    @property
    def confirming_ports(self) -> tuple[Port, ...]:
        """The ports from which signed knocks are confirmed."""
        return self.signed_ports if self.signed is not None and self.signed.confirm else ()


def is_watched(interfaces: Sequence[str], name: str) -> bool:
    """Return whether a gate with these `interfaces` watches an interface."""
    fits = (name.startswith(word[:-1]) if word.endswith("*") else name == word for word in interfaces)
    return any(fits) if interfaces else name != "lo"
