"""The chains that a packet meets. Each function gives the text of one chain or of one machine's chains."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from doorward.automaton.compile import Machine
from doorward.automaton.tracker import BURST, RATE_PER_S
from doorward.config.duration import nft_duration
from doorward.config.schema import Gate, Mode, WrongPort
from doorward.gate.tables import Action, classid, fingerprint
from doorward.model import TCP_FLAGS, FlagFilter

_NFT_FLAG_NAMES = {"ece": "ecn"}  # nft's name for the bit that RFC 3168 calls ECE
SOURCES = {"4": "ip saddr", "6": "ip6 saddr"}
LIMITED = {"4": "ip saddr", "6": "ip6 saddr & ffff:ffff:ffff:ffff::"}  # who counts as one source in the limiter


@dataclass(frozen=True, slots=True)
class Plan:
    """What the chains are made from."""

    machines: Sequence[Machine]
    gate: Gate
    generation: str
    log_group: int

    def log(self, event: str) -> str:
        """Write the statement that tells the daemon; the state's number travels in the packet's mark."""
        return f'log prefix "doorward {self.generation} {event} " group {self.log_group} snaplen 128 queue-threshold 1'


def chain(name: str, rules: Iterable[str], comment: str = "") -> str:
    """Write one chain, a rule a line."""
    head = f"# {comment}\n" if comment else ""
    return head + f"chain {name} {{\n" + "".join(f"    {rule}\n" for rule in rules) + "}\n"


def flag_match(flags: FlagFilter) -> str:
    """Write a TCP flag filter so that it cannot match where the header is cut short."""
    if not flags.mask:
        return "meta l4proto tcp"
    return f"tcp flags & ({_flag_names(flags.mask)}) == {_flag_names(flags.value) if flags.value else '0x0'}"


def _flag_names(bits: int) -> str:
    return " | ".join(_NFT_FLAG_NAMES.get(name, name) for name, bit in TCP_FLAGS.items() if bits & bit)


def granted(plan: Plan) -> str:
    """Tell the daemon of a complete knock. The mark is given back as zero: the packet may go on."""
    tell = "meta mark set meta priority map @number " + plan.log("knock")
    return chain("granted", ["counter name knocked", tell, "meta mark set 0"])


def opening(plan: Plan, number: int, action: Action, doors: str) -> str:
    """Open these ports for the source. A full set refuses, and says so."""
    rules = []
    for family, source in SOURCES.items():
        updates = [
            f"update @open{family} {{ {source} . {port.protocol.value} . {port.number} timeout {nft_duration(ms)} }}"
            for port, ms in action
        ]
        rules.append(" ".join([*updates, "goto granted"]))
    tell = "meta mark set meta priority map @number " + plan.log("full")
    return chain(f"opens_{number}", [*rules, "counter name no_room_open", tell, "meta mark set 0"], doors)


def matching(plan: Plan) -> list[str]:
    """Write everything between a new packet and the automaton: limiter, machines, transitions."""
    if not plan.machines:
        return []
    texts = [chain("entered", ["meta priority vmap @opens"])]
    for family in SOURCES:
        for machine in plan.machines:
            texts += _machine(machine, family)
        texts += [_too_fast(plan, family), _limited(plan, family)]
    return [*texts, _symbols(plan)]


def _machine(machine: Machine, family: str) -> list[str]:
    """Write one machine for one family; which source is where stands in its window and progress maps."""
    source, mark = SOURCES[family], f"{family}_{fingerprint(machine)}"
    move = "meta priority set meta priority . meta l4proto . th dport map @delta"
    forget = f"delete @progress{mark} {{ {source} : 0:0 }}"
    restart = _restart(machine, family)
    entered = "goto entered" if any(state in machine.completes for state in machine.firsts) else "return"
    begin = [
        forget,
        f"add @window{mark} {{ {source} : meta priority }} {entered}",
        f"add @hurried{mark} {{ {source} : meta priority }} counter name hurried {entered}",
        "counter name no_room_window",
    ]
    advance = [
        forget,
        f"add @progress{mark} {{ {source} : meta priority }} goto entered",
        *restart,  # without room for the longer prefix the shorter one must not stand
        "counter name no_room_progress",
    ]
    first = [f"meta priority set {classid(machine.root)}", f"{move} goto begin{mark}"]
    falls = machine.longest_fall()
    return [
        chain(f"begin{mark}", begin, "the first knock: its deadline starts"),
        chain(f"advance{mark}", advance, "a later knock, within the deadline"),
        chain(f"first{mark}", first),
        chain(f"restart{mark}", [*restart, f"goto first{mark}"], "a wrong knock may be a first one"),
        *(chain(f"fall{mark}_{n}", _fall(mark, move, n, falls)) for n in range(falls, 0, -1)),
        chain(f"match{mark}", _match(mark, source, move, falls)),
    ]


def _restart(machine: Machine, family: str) -> list[str]:
    """Take the source back to the start: what the progress map says counts only beside a deadline."""
    mark = f"{family}_{fingerprint(machine)}"
    return [f"delete @{name}{mark} {{ {SOURCES[family]} : 0:0 }}" for name in ("window", "hurried")]


def _match(mark: str, source: str, move: str, falls: int) -> list[str]:
    return [
        "meta priority set 0:0",
        f"meta priority set {source} map @window{mark}",
        f"meta priority set {source} map @hurried{mark}",
        f"meta priority 0:0 goto first{mark}",
        f"meta priority set {source} map @progress{mark}",
        f"{move} goto advance{mark}",
        "meta priority . meta l4proto . th dport @same return",
        *([f"meta priority set meta priority map @fail goto fall{mark}_1"] if falls else []),
        f"goto restart{mark}",
    ]


def _fall(mark: str, move: str, n: int, falls: int) -> list[str]:
    """Try the n-th shorter prefix; the failure links are unrolled to the longest chain of them."""
    deeper = [f"meta priority set meta priority map @fail goto fall{mark}_{n + 1}"] if n < falls else []
    return [f"{move} goto advance{mark}", *deeper, f"goto restart{mark}"]


def _too_fast(plan: Plan, family: str) -> str:
    """Send a scanner back to the start; note it once a minute, ten scanners a second at most."""
    key = LIMITED[family]
    forget = [rule for machine in plan.machines for rule in _restart(machine, family)]
    note = f"{key} != @scanners{family} limit rate 10/second burst 20 packets add @scanners{family} {{ {key} }}"
    return chain(f"too_fast{family}", [*forget, "counter name fast", f"{note} {plan.log('fast')}"])


def _limited(plan: Plan, family: str) -> str:
    key = LIMITED[family]
    several = len({machine.flags for machine in plan.machines}) > 1
    jumps: list[str] = []
    for machine in plan.machines:
        target = f"jump match{family}_{fingerprint(machine)}"
        jumps += [f"meta l4proto udp {target}", f"{flag_match(machine.flags)} {target}"] if several else [target]
    rules = [
        f"update @limiter{family} {{ {key} limit rate over {RATE_PER_S}/second burst {BURST} packets }}"
        f" goto too_fast{family}",
        f"{key} != @limiter{family} counter name no_room_limiter return",
        *jumps,
    ]
    return chain(f"limited{family}", rules)


def _symbols(plan: Plan) -> str:
    """Let through to the automaton what is a symbol: the port and the flags of some machine."""
    known = ["meta l4proto . th dport != @known return"] if plan.gate.wrong_port is WrongPort.KNOWN else []
    filters = dict.fromkeys(machine.flags for machine in plan.machines)
    rules = [f"{match} goto limited" for match in ("udp length >= 8", *map(flag_match, filters))]
    by_family = "meta nfproto vmap { ipv4 : goto limited4, ipv6 : goto limited6 }"
    return chain("limited", [by_family]) + chain("symbols", [*known, *rules], "what counts as a knock, right or wrong")


def door(gate: Gate) -> str:
    """A port that some door opens: only for sources it is open to."""
    opened = [f"{source} . meta l4proto . th dport @open{family} accept" for family, source in SOURCES.items()]
    if gate.mode is Mode.OBSERVE:
        return chain("door", ["accept"])
    return chain("standing", _standing()) + chain("door", [*opened, "jump standing", "counter name hidden drop"])


def _standing() -> list[str]:
    """Connections older than the gate; a SYN never belongs to one."""
    return [
        f"tcp flags & syn == 0x0 {family} saddr . tcp sport . {family} daddr . tcp dport @standing{number} accept"
        for family, number in (("ip", "4"), ("ip6", "6"))
    ]


def prerouting(plan: Plan, *, has_knocks: bool) -> str:
    """The base chain: after conntrack, before destination NAT, so that a port is seen as the client sent it."""
    gate = plan.gate
    watched = ", ".join(f'"{name}"' for name in gate.interfaces)
    stealth = gate.mode is Mode.STEALTH
    to_host = "{ local, broadcast, multicast, anycast }" if stealth else "local"
    unicast = "fib daddr type local " if stealth else ""
    knock = [f"{unicast}meta l4proto {{ tcp, udp }} jump symbols", "meta priority set 0:0"]
    rules = [
        "type filter hook prerouting priority mangle; policy accept;",
        'iifname "lo" accept',
        *([f"iifname != {{ {watched} }} accept"] if watched else []),
        "ct state established,related accept",
        f"fib daddr type != {to_host} accept",
        "meta l4proto . th dport vmap @ports",
        *(knock if has_knocks else []),
        *(_needs_of_a_host(ping=gate.ping) if stealth else []),
    ]
    return chain("prerouting", rules)


def _needs_of_a_host(*, ping: bool) -> list[str]:
    """What stealth lets in: path MTU (RFC 8201, RFC 4890), neighbours, multicast membership, DHCP, ping."""
    echo = ["icmp type echo-request accept", "icmpv6 type echo-request accept"] if ping else []
    neighbours = (
        "nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit, nd-router-advert, nd-redirect,"
        " mld-listener-query, mld-listener-report, mld-listener-done, mld2-listener-report"
    )
    return [
        "icmp type destination-unreachable icmp code frag-needed accept",
        f"icmpv6 type {{ packet-too-big, {neighbours} }} accept",
        "ip protocol igmp accept",
        *echo,
        # Only where a client listens: without one the host would answer that the port is closed.
        "udp sport 67 udp dport 68 socket wildcard { 0, 1 } accept",
        "ip6 saddr fe80::/10 udp dport 546 socket wildcard { 0, 1 } accept",
        "jump standing",
        "counter name silent drop",
    ]
