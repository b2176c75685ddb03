"""The chains that a packet traverses before and after the automaton. Each function returns the text of one or more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from doorward.config.duration import nft_duration
from doorward.config.schema import Gate, Mode, WrongPort
from doorward.core.tracker import BURST, RATE_PER_S
from doorward.model import TCP_FLAGS, FlagFilter, Port
from doorward.nftables.automaton_chains import DESTINATIONS, SOURCES, Group, chain, group_chains
from doorward.nftables.maps import Action, classid
from doorward.signed.message import PACKET_BYTES, UDP_HEADER_BYTES
from doorward.signed.stun import MAX_FRAME_BYTES, MIN_FRAME_BYTES

LOG_GROUP = 3328  # netfilter log group for completed and rejected knocks (0x0d00, for "door")
STEP_GROUP = 3329  # for single steps of knocks: rate-limited and separate, so that they never crowd out completed ones
SIGNED_GROUP = 3330  # for signed knocks, whole, which the daemon verifies
SIGNED_RATE_PER_S, SIGNED_BURST = 10, 20  # per source; a client sends one datagram per knock
# Below this total rate no source is limited: a few datagrams with a forged source address must not use up the budget
# of its owner. The verifier rejects some 20,000/s of the most expensive ones on one CPU.
SIGNED_CALM_PER_S, SIGNED_CALM_BURST = 1000, 1000
# Total rate that reaches the verifier; one CPU rejects more invalid datagrams than that per second.
SIGNED_BUDGET_PER_S, SIGNED_BUDGET_BURST = 60_000, 10_000
_SIGNED_LIMITS = (
    f"limit rate {SIGNED_CALM_PER_S}/second burst {SIGNED_CALM_BURST} packets",
    f"limit rate over {SIGNED_BUDGET_PER_S}/second burst {SIGNED_BUDGET_BURST} packets",
)
# The same for STUN frames, of browsers, whose senders may know the server's key from a page, so that each is decrypted.
# A flood of them takes the verifier a tenth of a CPU, and leaves the rest for other signed knocks.
_BROWSER_LIMITS = ("limit rate 200/second burst 200 packets", "limit rate over 2000/second burst 500 packets")
# A Binding Request with the magic cookie.
_FRAME = (
    f"udp length {MIN_FRAME_BYTES + UDP_HEADER_BYTES}-{MAX_FRAME_BYTES + UDP_HEADER_BYTES}"
    " @th,64,16 0x0001 @th,96,32 0x2112a442"
)
_NFT_FLAG_NAMES = {"ece": "ecn"}  # nft's name for the bit that RFC 3168 calls ECE
_STEP_LIMIT = "limit rate 1000/second burst 1000 packets"
# Addresses that several hosts share; a socket of this host may be among the receivers.
_SHARED = "broadcast, multicast, anycast"
# Without `iif` the kernel does not consult the table of a VRF; with it, only for addresses of that interface.
_NOT_LOCAL = "fib daddr type != local fib daddr . iif type != local"
_LOOK_UP_PORT = "meta l4proto . th dport vmap @ports"
# ICMP errors, and connections that a conntrack helper expects. A helper parses untrusted text (a server that echoes a
# client's text announces any port), so the port is looked up first.
_RELATED = "ct state related accept"
LIMITED = {"4": "ip saddr", "6": "ip6 saddr & ffff:ffff:ffff:ffff::"}  # what counts as one source for rate limits


class ShieldMark(NamedTuple):
    """How the shield marks a packet that completes a knock: the token, and the bits of the priority with the state."""

    token: int
    state_mask: int


@dataclass(frozen=True, slots=True)
class ChainContext:
    """The input of the chains. `log_steps`: each step of a knock is logged too."""

    groups: Sequence[Group]
    gate: Gate
    generation: str
    log_steps: bool
    signed_ports: Sequence[Port] = ()
    is_for_browsers: bool = False
    shield: ShieldMark | None = None

    def log(self, event: str, group: int = LOG_GROUP) -> str:
        """Return the statement that reports an event to the daemon."""
        return f'log prefix "doorward {self.generation} {event} " group {group} snaplen 128 queue-threshold 1'

    def log_state(self, event: str, group: int = LOG_GROUP) -> str:
        """Return the same with the state in the packet's mark, reset to zero afterwards, since the packet may pass."""
        return f"meta mark set meta priority map @number {self.log(event, group)} meta mark set 0"

    def targets(self, family: str) -> bool:
        """Return whether any door of this family has a target."""
        return any(group.family == family for group in self.groups)


def flag_match(flags: FlagFilter) -> str:
    """Return the match for a TCP flag filter; it never matches a truncated header."""
    if not flags.mask:
        return "meta l4proto tcp"
    return f"tcp flags & ({_flag_names(flags.mask)}) == {_flag_names(flags.value) if flags.value else '0x0'}"


def _flag_names(bits: int) -> str:
    return " | ".join(_NFT_FLAG_NAMES.get(name, name) for name, bit in TCP_FLAGS.items() if bits & bit)


def granted(context: ChainContext) -> str:
    """Return the chain that reports a complete knock to the daemon."""
    return chain("granted", ["counter name knocked", context.log_state("knock")])


def opening(context: ChainContext, name: str, action: Action, doors: str) -> str:
    """Return the chain that opens these ports to the source. If the set is full, it reports that instead."""
    rules = []
    for family, source in SOURCES.items():
        updates = [
            f"update @open{family} {{ {source} . {port.protocol.value} . {port.number} timeout {nft_duration(ms)} }}"
            for port, ms in action
        ]
        rules.append(" ".join([*updates, "goto granted"]))
    if not action:  # the door only runs commands
        return chain(name, ["goto granted"], doors)
    return chain(name, [*rules, "counter name open_full", context.log_state("full")], doors)


def matching(context: ChainContext) -> list[str]:
    """Return everything between a new packet and a completed knock: rate limit, automaton, transitions."""
    if not context.groups:
        return []
    step = [f"{_STEP_LIMIT} {context.log_state('step', STEP_GROUP)}"] if context.log_steps else []
    wrong = [f"{_STEP_LIMIT} {context.log('wrong', STEP_GROUP)}"] if context.log_steps else []
    texts = [chain("entered", ["meta priority vmap @opens", *step])]
    for family in SOURCES:
        for group in context.groups:
            if family in group.families:
                texts += group_chains(group, family, on_wrong=wrong, log_steps=context.log_steps)
        texts += [_throttle(context, family), _limited(context, family)]
    return [*texts, _knock_packets(context)]


def _throttle(context: ChainContext, family: str) -> str:
    """Return the chain that resets a source over the rate limit; logs it once per minute, at most ten sources/s."""
    key = LIMITED[family]
    restart = [rule for group in context.groups if family in group.families for rule in group.restart(family)]
    pause = f"update @throttled{family} {{ {key} }}"
    note = f"{key} != @scanners{family} limit rate 10/second burst 20 packets add @scanners{family} {{ {key} }}"
    return chain(f"throttle{family}", [*restart, "counter name throttled", pause, f"{note} {context.log('throttled')}"])


def _limited(context: ChainContext, family: str) -> str:
    key = LIMITED[family]
    several = len({group.flags for group in context.groups}) > 1
    jumps: list[str] = []
    for group in context.groups:
        if family in group.families:
            here = "fib daddr type local " if context.targets(family) and not group.family else ""
            target = f"jump match{group.mark(family)}"
            filters = ("meta l4proto udp ", f"{flag_match(group.flags)} ") if several else ("",)
            jumps += [f"{here}{match}{target}" for match in filters]
    rules = [
        f"{key} @throttled{family} counter name throttled return",
        f"update @ratelimit{family} {{ {key} limit rate over {RATE_PER_S}/second burst {BURST} packets }}"
        f" goto throttle{family}",
        f"{key} != @ratelimit{family} counter name ratelimit_full return",
        *jumps,
    ]
    return chain(f"limited{family}", rules)


def _banned(verdict: str) -> list[str]:
    """Return the rules that count the packets of banned sources and give them a verdict."""
    return [f"{key} @banned{family} counter name banned {verdict}" for family, key in LIMITED.items()]


def _knock_packets(context: ChainContext) -> str:
    """Return the chains that pass knock packets to the automaton: those whose port and flags some part of it tests."""
    known = ["meta l4proto . th dport != @known return"] if context.gate.wrong_port is WrongPort.KNOWN else []
    filters = dict.fromkeys(group.flags for group in context.groups)
    rules = [
        *known,
        *_banned("return"),
        *(f"{match} goto limited" for match in ("udp length >= 8", *map(flag_match, filters))),
    ]
    # Two rules: in an anonymous verdict map a packet in flight finds nothing once the rule is replaced.
    by_family = ["meta nfproto ipv4 goto limited4", "goto limited6"]
    return chain("limited", by_family) + chain("knock_packets", rules, "what counts as a knock, right or wrong")


def early(context: ChainContext) -> str:
    """Return the chains that, in mode stealth, drop SYNs of sources over the rate limit before conntrack sees them.

    That mode would drop them anyway.
    """
    if context.gate.mode is not Mode.STEALTH or not context.groups:
        return ""
    syn = "tcp flags & (fin | syn | rst | ack) == syn"
    dropping = [
        *_unwatched(context.gate, "return"),
        "meta l4proto . th dport @exempt return",
        "fib daddr type local counter name throttled drop",
    ]
    rules = [
        "type filter hook prerouting priority raw; policy accept;",
        *(f"{syn} {LIMITED[family]} @throttled{family} goto still_throttled" for family in SOURCES),
    ]
    return chain("still_throttled", dropping) + chain("early", rules)


def signed(context: ChainContext) -> str:
    """Return the chains that log signed knocks to the daemon and drop them before conntrack sees them."""
    if not context.signed_ports:
        return ""
    verdict = "return" if context.gate.mode is Mode.OBSERVE else "drop"
    lengths = ", ".join(str(length + UDP_HEADER_BYTES) for length in sorted(PACKET_BYTES))
    browser = chain("browser", _handed_over("browser", *_BROWSER_LIMITS, verdict)) if context.is_for_browsers else ""
    rules = [
        *_unwatched(context.gate, "return"),
        f"{_NOT_LOCAL} return",
        *_banned(verdict),
        *([f"{_FRAME} goto browser"] if browser else []),
        f"udp length != {{ {lengths} }} counter name signed_length {verdict}",
        *_handed_over("signed", *_SIGNED_LIMITS, verdict),
    ]
    ports = ", ".join(str(port.number) for port in context.signed_ports)
    hook = ["type filter hook prerouting priority raw; policy accept;", f"udp dport {{ {ports} }} goto signed"]
    return browser + chain("signed", rules) + chain("before_conntrack", hook)


def _handed_over(kind: str, calm: str, budget: str, verdict: str) -> list[str]:
    """Return the rules that log datagrams to the daemon within the limits; `kind`: the name of set and counters."""
    hand_over = f'counter name {kind} log prefix "doorward signed" group {SIGNED_GROUP} queue-threshold 1 {verdict}'
    limits = [
        f"update @{kind}{family} {{ {key} limit rate over {SIGNED_RATE_PER_S}/second burst {SIGNED_BURST} packets }}"
        f" counter name {kind}_throttled {verdict}"
        for family, key in LIMITED.items()
    ]
    return [f"{calm} {hand_over}", *limits, f"{budget} counter name {kind}_budget_exceeded {verdict}", hand_over]


def shielded(context: ChainContext) -> str:
    """Return the chain for a packet that, as the shield reports, completes a knock. Banned sources open nothing."""
    if context.shield is None:
        return ""
    rules = [
        f"meta priority set meta priority & {classid(context.shield.state_mask)}",
        *_banned("drop"),
        "jump entered",
        "meta priority set 0:0",
        "goto needs",
    ]
    return chain("shielded", rules)


def _from_shield(context: ChainContext) -> list[str]:
    """Return the rule for the packets that the shield marked: other marks, or other interfaces, mean nothing."""
    if context.shield is None:
        return []
    token, mask = context.shield
    return [f"iifname @shielded meta priority & {classid(0xFFFFFFFF & ~mask)} == {classid(token)} goto shielded"]


def door(gate: Gate, *, has_open_nets: bool) -> str:
    """Return the chains for a door's port: accept the sources it is open to, drop the others."""
    accept = f"{_marking(gate)}accept"
    sets = ("open", "open_nets") if has_open_nets else ("open",)
    opened = [
        f"{source} . meta l4proto . th dport @{name}{family} {accept}"
        for name in sets
        for family, source in SOURCES.items()
    ]
    if gate.mode is not Mode.OBSERVE:
        rules = ["jump preexisting", *_banned("drop"), *opened, "counter name dropped_closed drop"]
    else:
        rules = [*_banned("accept"), *opened, "accept"] if gate.accept_mark is not None else ["accept"]
    return chain("preexisting", _preexisting()) + chain("door", rules)


def _marking(gate: Gate) -> str:
    """Return the statement that sets the mark bits that another firewall accepts; the other bits belong to others."""
    if gate.accept_mark is None:
        return ""
    value, mask = gate.accept_mark
    return f"meta mark set meta mark & {0xFFFF_FFFF & ~mask:#x} | {value:#x} "


def _unmarked(gate: Gate) -> list[str]:
    """Return the rule that clears these bits on arrival: a tunnel's inner packet inherits the mark of the outer one."""
    if gate.accept_mark is None:
        return []
    mask = gate.accept_mark.mask
    return [f"meta mark & {mask:#x} != 0x0 meta mark set meta mark & {0xFFFF_FFFF & ~mask:#x}"]


def _preexisting() -> list[str]:
    """Return the rules for connections older than the gate; a SYN never belongs to one."""
    return [
        f"tcp flags & syn == 0x0 {family} saddr . tcp sport . {family} daddr . tcp dport @preexisting{number} accept"
        for family, number in (("ip", "4"), ("ip6", "6"))
    ]


def forwarded(context: ChainContext) -> str:
    """Return the chain for forwarded packets: knocks for doors with a target; they are never dropped."""
    rules = [
        f"{DESTINATIONS[family]} @targets{family} meta l4proto {{ tcp, udp }} jump knock_packets"
        for family in SOURCES
        if context.targets(family)
    ]
    return chain("forwarded", [_RELATED, *rules, "meta priority set 0:0"]) if rules else ""


def _unwatched(gate: Gate, verdict: str, way: str = "iifname") -> list[str]:
    """Return rules for packets that arrive (or leave, with `way` "oifname") on an interface that is not watched."""
    watched = ", ".join(f'"{name}"' for name in gate.interfaces)
    loopback = [] if "lo" in gate.interfaces else [f'{way} "lo" {verdict}']
    return [*loopback, *([f"{way} != {{ {watched} }} {verdict}"] if watched else [])]


def prerouting(context: ChainContext) -> str:
    """Return the base chain: after conntrack and before destination NAT, so that the port is the one the client sent.

    The port of every packet that a socket of this host may receive is looked up, unless it belongs to an established
    connection. Only a new packet to an address that no other host shares can be a knock packet.
    """
    gate = context.gate
    stealth = gate.mode is Mode.STEALTH
    knock = ["meta l4proto { tcp, udp } jump knock_packets", "meta priority set 0:0"]
    silence = ["goto needs"] if stealth else []
    rules = [
        "type filter hook prerouting priority mangle; policy accept;",
        *_unmarked(gate),
        *_unwatched(gate, "accept"),
        "ct state established accept",
        f"{_NOT_LOCAL} goto not_local",
        _LOOK_UP_PORT,
        _RELATED,
        *_from_shield(context),
        *(knock if context.groups else []),
        *silence,
    ]
    not_shared = f"fib daddr type != {{ {_SHARED} }} fib daddr . iif type != {{ {_SHARED} }}"
    passing = "goto forwarded" if forwarded(context) else "accept"
    not_local = [f"{not_shared} {passing}", _LOOK_UP_PORT, _RELATED, *silence]
    needs = chain("needs", _needs_of_a_host(ping=gate.ping)) if stealth else ""
    return needs + chain("not_local", not_local) + chain("prerouting", rules)


def translated(context: ChainContext) -> str:
    """Return the input chain that looks up the port of a related packet again: a NAT helper may have changed it."""
    if context.gate.mode is Mode.OBSERVE:
        return ""
    rules = [
        "type filter hook input priority mangle; policy accept;",
        "ct state != related accept",
        *_unwatched(context.gate, "accept"),
        _LOOK_UP_PORT,
    ]
    return chain("input", rules)


def output(context: ChainContext) -> str:
    """Return the output chain that drops ICMP errors that the kernel sends before a rule, or where no rule drops.

    They answer fragments, options, and IPv6 addresses to which this host has no route.
    """
    if context.gate.mode is not Mode.STEALTH:
        return ""
    count_and_drop = "counter name dropped_stealth drop"
    rules = [
        "type filter hook output priority mangle; policy accept;",
        "meta l4proto != { icmp, ipv6-icmp } accept",
        *_unwatched(context.gate, "accept", "oifname"),
        f"icmp type time-exceeded icmp code 1 {count_and_drop}",  # code 1: fragments that were not completed in time
        f"icmp type parameter-problem {count_and_drop}",
        f"icmpv6 type time-exceeded icmpv6 code 1 {count_and_drop}",
        f"icmpv6 type parameter-problem {count_and_drop}",
        # Not only a router sends it: any host does. What is for another address passes, since it may be forwarded.
        f"icmpv6 type destination-unreachable icmpv6 code no-route {count_and_drop}",
    ]
    return chain("output", rules)


def _needs_of_a_host(*, ping: bool) -> list[str]:
    """Return what stealth accepts: path MTU (RFC 8201, RFC 4890), neighbors, multicast membership, DHCP, ping."""
    echo = ["icmp type echo-request accept", "icmpv6 type echo-request accept"] if ping else []
    neighbors = (
        "nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit, nd-router-advert, nd-redirect,"
        " mld-listener-query, mld-listener-report, mld-listener-done, mld2-listener-report"
    )
    return [
        "icmp type destination-unreachable icmp code frag-needed accept",
        f"icmpv6 type {{ packet-too-big, {neighbors} }} accept",
        "ip protocol igmp accept",
        *echo,
        # Only while a client listens; otherwise the host would answer that the port is closed.
        "udp sport 67 udp dport 68 socket wildcard { 0, 1 } accept",
        "ip6 saddr fe80::/10 udp dport 546 socket wildcard { 0, 1 } accept",
        "jump preexisting",
        "counter name dropped_stealth drop",
    ]
