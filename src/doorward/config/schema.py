"""Every setting with its default and its limits."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from doorward.model import DEFAULT_SIGNED_PORT, Door, Port

MAX_SEQUENCE = 32  # knocks; a longer one is no safer, and failure links stay at most 31 long
MAX_CAPACITY = 1 << 24  # entries a set; 16 million full entries are gigabytes of kernel memory
DEFAULT_CAPACITY = 1 << 20
HURRIED_MS = 2000  # the deadline of sources that find no other room: capacity / 2 s = 500,000 first knocks a second
PLACE, REASON = "%IP%", "%REASON%"  # in a hook's words: the address, and why it was refused
SHORTEST_TRIAL_MS, LONGEST_TRIAL_MS = 1000, 86_400_000


class Mode(StrEnum):
    """What the gate hides."""

    OBSERVE = "observe"  # match, never drop
    GUARD = "guard"  # hide the doors' ports
    STEALTH = "stealth"  # hide everything that is not public


class WrongPort(StrEnum):
    """Which ports reset a knock in progress."""

    ANY = "any"
    KNOWN = "known"  # only ports that occur in some sequence, as knockd does in fact


class EtcdOutagePolicy(StrEnum):
    """What a shared door does with a signed knock while the fleet gives no answer."""

    CLOSED = "closed"  # refuse it: it may have been used at another gate
    LOCAL = "local"  # take it where this gate has not seen it


class Mark(NamedTuple):
    """Bits of a packet's mark: those in `mask` are doorward's, and `value` is what it sets them to."""

    value: int
    mask: int

    def __str__(self) -> str:
        return f"{self.value:#x}/{self.mask:#x}"


@dataclass(frozen=True, slots=True)
class Gate:
    """The table `[gate]`. `capacity` None: the default, less where the memory is small."""

    mode: Mode = Mode.GUARD
    interfaces: tuple[str, ...] = ()  # none named: every interface but lo
    public: tuple[Port, ...] = ()
    wrong_port: WrongPort = WrongPort.ANY
    ping: bool = True
    capacity: int | None = None
    name: str | None = None
    control_group: str | None = None  # besides root, who may ask the daemon
    accept_mark: Mark | None = None  # set on what is open to its source, for another firewall to accept
    on_refuse: tuple[str, ...] = ()  # a program and its words, run on refusals, a few a minute


@dataclass(frozen=True, slots=True)
class Signed:
    """The table `[signed]`. The files are named relative to the configuration's folder.

    `window_ms`: how far the sender's clock may be off, either way.
    """

    port: Port = DEFAULT_SIGNED_PORT
    key: str = "server.key"
    authorized_keys: str = "authorized_keys"
    window_ms: int = 60_000


@dataclass(frozen=True, slots=True)
class Fleet:
    """The table `[fleet]`: the gates that share openings, and the etcd that they share them by.

    The files are named relative to the configuration's folder; an empty name is none. `timeout_ms`: how long an
    answer is waited for. `for_max_ms`: for how long the fleet may open a shared door here; None: for the door's own
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
    """A whole, valid configuration: doors in the order of the file.

    `signed` None: no signed knocks; `fleet` None: this gate is alone.
    """

    gate: Gate
    doors: tuple[Door, ...]
    signed: Signed | None = None
    fleet: Fleet | None = None
