"""The chains that a packet traverses before and after the automaton. Each function returns the text of one or more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from doorward.config.duration import nft_duration
from doorward.config.schema import Fwknop, Gate, Hmac, Mode, WrongPort
from doorward.core.tracker import BURST, RATE_PER_S
from doorward.fwknop.spa_packet import MAX_BYTES, MIN_BYTES
from doorward.model import TCP_FLAGS, FlagFilter, HostPort, Port, SetPort
from doorward.nftables import once_chains, shield_chains
from doorward.nftables.automaton_chains import DESTINATIONS, SOURCES, Group, chain, group_chains
from doorward.nftables.maps import Action, open_set
from doorward.nftables.shield_chains import ShieldMark
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
# A packet of fwknop's clients: as long as one, over IPv4, and its first eight bytes are letters of base64, as those of
# one signed knock in 65,000 are too, which then has these limits. The rates leave the verifier, which tries the keys of
# all stanzas, four fifths of its CPU for signed knocks.
_LETTER = "{ 0x2b, 0x2f-0x39, 0x41-0x5a, 0x61-0x7a }"
_FWKNOP = f"meta nfproto ipv4 udp length {MIN_BYTES + UDP_HEADER_BYTES}-{MAX_BYTES + UDP_HEADER_BYTES}" + "".join(
    f" @th,{bit},8 {_LETTER}" for bit in range(64, 128, 8)
)
_FWKNOP_CPU_US, _FWKNOP_PACKET_US = 200_000, 50  # per second; of a packet
# For each stanza, of the longest packet: its HMAC, or without it a decryption.
_HMAC_US = {Hmac.SHA256: 2, Hmac.SHA384: 4, Hmac.SHA512: 4, Hmac.SHA3_256: 5, Hmac.SHA3_512: 8}
_DECRYPTION_US = 20
_NFT_FLAG_NAMES = {"ece": "ecn"}  # nft's name for the bit that RFC 3168 calls ECE
_REJECT = "counter name dropped_closed drop"
_STEP_LIMIT = "limit rate 1000/second burst 1000 packets"
# Addresses that several hosts share; a socket of this host may be among the receivers.
SHARED = "broadcast, multicast, anycast"
# Without `iif` the kernel does not consult the table of a VRF; with it, only for addresses of that interface.
_NOT_LOCAL = "fib daddr type != local fib daddr . iif type != local"
_LOOK_UP_PORT = "meta l4proto . th dport vmap @ports"
# ICMP errors, and connections that a conntrack helper expects. A helper parses untrusted text (a server that echoes a
# client's text announces any port), so the port is looked up first.
_RELATED = "ct state related accept"
LIMITED = {"4": "ip saddr", "6": "ip6 saddr & ffff:ffff:ffff:ffff::"}  # what counts as one source for rate limits


@dataclass(frozen=True, slots=True)
class ChainContext:
    """The input of the chains. `log_steps`: each step of a knock is logged too. `is_for_one`: see once_chains.py."""

    groups: Sequence[Group]
    gate: Gate
    generation: str
    log_steps: bool
    signed_ports: Sequence[Port] = ()
    is_for_browsers: bool = False
    fwknop: Fwknop | None = None
    shield: ShieldMark | None = None
    is_for_one: bool = False
    behind: Sequence[str] = ()  # the rules that look up ports of hosts behind this one
    look_up_range: Sequence[str] = ()  # the rule that looks up a port among ranges, if there are any
    unreachable: frozenset[tuple[str, Port]] = frozenset()  # ports that are forwarded for the other family only
    is_router: bool = False  # whether a door leads to a host behind this one

    def log(self, event: str, group: int = LOG_GROUP) -> str:
        """Return the statement that reports an event to the daemon."""
        return f'log prefix "doorward {self.generation} {event} " group {group} snaplen 128 queue-threshold 1'

    def log_state(self, event: str, group: int = LOG_GROUP) -> str:
        """Return the same with the state in the packet's mark, reset to zero afterwards, since the packet may pass."""
        return f"meta mark set meta priority map @number {self.log(event, group)} meta mark set 0"

    def open_sets(self, name: str = "open") -> Sequence[str]:
        """Return the names, without the family, of the sets that hold openings: networks need a signed knock."""
        return (name, f"{name}_nets") if self.signed_ports else (name,)

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
    for family in SOURCES:
        updates = [update for each in action if (update := _update(context, family, *each))]
        rules.append(" ".join([*(updates or [f"meta nfproto ipv{family}"]), "goto granted"]))
    if not action:  # the door only runs commands
        return chain(name, ["goto granted"], doors)
    return chain(name, [*rules, "counter name open_full", context.log_state("full")], doors)


def _update(context: ChainContext, family: str, port: SetPort, ms: int, once: bool) -> str:
    """Return the statement that opens a port; empty if it leads to a host of the other address family only."""
    host = port.host if isinstance(port, HostPort) else None
    if (family, port) in context.unreachable or (host is not None and host.version != int(family)):
        return ""
    key = f"{SOURCES[family]} . {f'{host} . ' if host else ''}{port.protocol.value} . {port.number}"
    return f"update @{open_set(port, family, once=once)} {{ {key} timeout {nft_duration(ms)} }}"


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
            here = "fib daddr type local " if context.targets(family) and not group.family else group.destination()
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


def banned(verdict: str) -> list[str]:
    """Return the rules that count the packets of banned sources and give them a verdict."""
    return [f"{key} @banned{family} counter name banned {verdict}" for family, key in LIMITED.items()]


def _knock_packets(context: ChainContext) -> str:
    """Return the chains that pass knock packets to the automaton: those whose port and flags some part of it tests."""
    known = ["meta l4proto . th dport != @known return"] if context.gate.wrong_port is WrongPort.KNOWN else []
    filters = dict.fromkeys(group.flags for group in context.groups)
    rules = [
        *known,
        *banned("return"),
        *(f"{match} goto limited" for match in ("udp length >= 8", *map(flag_match, filters))),
    ]
    # Two rules: in an anonymous verdict map a packet in flight finds nothing once the rule is replaced.
    by_family = ["meta nfproto ipv4 goto limited4", "goto limited6"]
    return chain("limited", by_family) + chain("knock_packets", rules, "what counts as a knock, right or wrong")


def signed(context: ChainContext) -> str:
    """Return the chains that log signed knocks to the daemon and drop them before conntrack sees them."""
    if not context.signed_ports:
        return ""
    verdict = "return" if context.gate.mode is Mode.OBSERVE else "drop"
    lengths = ", ".join(str(length + UDP_HEADER_BYTES) for length in sorted(PACKET_BYTES))
    browser = chain("browser", _handed_over("browser", *_BROWSER_LIMITS, verdict)) if context.is_for_browsers else ""
    rules = [
        *unwatched(context.gate, "return"),
        f"{_NOT_LOCAL} return",
        *banned(verdict),
        *([f"udp dport {context.fwknop.port.number} {_FWKNOP} goto fwknop"] if context.fwknop else []),
        *([f"{_FRAME} goto browser"] if browser else []),
        f"udp length != {{ {lengths} }} counter name signed_length {verdict}",
        *_handed_over("signed", *_SIGNED_LIMITS, verdict),
    ]
    ports = ", ".join(str(port.number) for port in context.signed_ports)
    hook = ["type filter hook prerouting priority raw; policy accept;", f"udp dport {{ {ports} }} goto signed"]
    return _fwknop(context, verdict) + browser + chain("signed", rules) + chain("before_conntrack", hook)


def _fwknop(context: ChainContext, verdict: str) -> str:
    """Return the chain that logs packets of fwknop's clients."""
    if context.fwknop is None:
        return ""
    stanzas = context.fwknop.stanzas
    tries_us = sum(_DECRYPTION_US if stanza.insecure_no_hmac else _HMAC_US[stanza.hmac] for stanza in stanzas)
    rate = max(4, round(_FWKNOP_CPU_US / (_FWKNOP_PACKET_US + tries_us)))  # within both limits
    calm = f"limit rate {rate // 4}/second burst {rate // 4} packets"
    budget = f"limit rate over {rate - rate // 4}/second burst {rate // 4} packets"
    return chain("fwknop", _handed_over("fwknop", calm, budget, verdict))


def _handed_over(kind: str, calm: str, budget: str, verdict: str) -> list[str]:
    """Return the rules that log datagrams to the daemon within the limits; `kind`: the name of set and counters."""
    hand_over = f'counter name {kind} log prefix "doorward signed" group {SIGNED_GROUP} queue-threshold 1 {verdict}'
    limits = [
        f"update @{kind}{family} {{ {key} limit rate over {SIGNED_RATE_PER_S}/second burst {SIGNED_BURST} packets }}"
        f" counter name {kind}_throttled {verdict}"
        for family, key in LIMITED.items()
    ]
    return [f"{calm} {hand_over}", *limits, f"{budget} counter name {kind}_budget_exceeded {verdict}", hand_over]


def door(context: ChainContext) -> str:
    """Return the chains for a door's port."""
    keys = {family: f"{source} . meta l4proto . th dport" for family, source in SOURCES.items()}
    return chain("preexisting", _preexisting()) + hidden(context, "door", once_chains.Lookup(keys))


def hidden(context: ChainContext, name: str, look_up: once_chains.Lookup, before: str = "jump preexisting") -> str:
    """Return the chains for hidden ports: accept the sources that they are open to, drop the others.

    `before`: the rule for packets that pass although nothing is open.
    """
    gate = context.gate
    accept = f"{marking(gate)}accept"
    open_sets = context.open_sets(f"open{look_up.of}")
    opened = [f"{key} @{each}{family} {accept}" for each in open_sets for family, key in look_up.keys.items()]
    use = ""
    if context.is_for_one and look_up.use:
        opened = [*look_up.rules(accept), *opened]
        reject = "accept" if gate.mode is Mode.OBSERVE else _REJECT
        use = "".join(look_up.use_chains(context.log("used"), accept, reject))
    if gate.mode is not Mode.OBSERVE:
        rules = [before, *banned("drop"), *opened, _REJECT]
    else:
        rules = [*banned("accept"), *opened, "accept"] if use or gate.accept_mark is not None else ["accept"]
    return use + chain(name, rules)


def marking(gate: Gate) -> str:
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
    """Return the chain for forwarded packets: knocks for doors with a target, which are never dropped.

    What a door opens behind this host does not count as a knock port, but is hidden here already.
    """
    rules = [
        f"{DESTINATIONS[family]} @targets{family} meta l4proto {{ tcp, udp }} jump knock_packets"
        for family in SOURCES
        if context.targets(family)
    ]
    return chain("forwarded", [*context.behind, _RELATED, *rules, "meta priority set 0:0"]) if rules else ""


def unwatched(gate: Gate, verdict: str, way: str = "iifname") -> list[str]:
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
    # Both accept. A router's packets pass another chain too, and most are of established connections.
    passing = [*unwatched(gate, "accept"), "ct state established accept"]
    rules = [
        "type filter hook prerouting priority mangle; policy accept;",
        *_unmarked(gate),
        *(passing[::-1] if context.is_router else passing),
        f"{_NOT_LOCAL} goto not_local",
        _LOOK_UP_PORT,
        *context.look_up_range,
        _RELATED,
        *shield_chains.look_up(context.shield),
        *(knock if context.groups else []),
        *silence,
    ]
    not_shared = f"fib daddr type != {{ {SHARED} }} fib daddr . iif type != {{ {SHARED} }}"
    forward = "goto forwarded" if forwarded(context) else "accept"
    not_local = [f"{not_shared} {forward}", _LOOK_UP_PORT, *context.look_up_range, _RELATED, *silence]
    needs = chain("needs", _needs_of_a_host(ping=gate.ping)) if stealth else ""
    shielded = shield_chains.shielded(context.shield, banned("goto counted"), "goto needs" if stealth else "accept")
    return needs + shielded + chain("not_local", not_local) + chain("prerouting", rules)


def translated(context: ChainContext) -> str:
    """Return the input chain that looks up the port of a related packet again: a NAT helper may have changed it."""
    if context.gate.mode is Mode.OBSERVE:
        return ""
    rules = [
        "type filter hook input priority mangle; policy accept;",
        "ct state != related accept",
        *unwatched(context.gate, "accept"),
        _LOOK_UP_PORT,
        *context.look_up_range,
    ]
    return chain("input", rules)


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
