"""Chains and maps of the automaton, per address family: the state of each source, and its transitions."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from doorward.core.automaton import Machine
from doorward.model import FlagFilter
from doorward.nftables.maps import classid

SOURCES = {"4": "ip saddr", "6": "ip6 saddr"}
DESTINATIONS = {"4": "ip daddr", "6": "ip6 daddr"}
ADDRESS_TYPES = {"4": "ipv4_addr", "6": "ipv6_addr"}
_MOVE = "meta priority set meta priority . meta l4proto . th dport map @delta"


@dataclass(frozen=True, slots=True)
class Group:
    """Automaton parts that share chains and maps: one without a target or with one of IPv6, or all with one of IPv4.

    Those have equal flags and deadlines. Their maps are keyed by source and destination, and the destination selects
    the start state. libnftables before 1.0.7 cannot write two IPv6 addresses into a map's key.
    """

    machines: tuple[Machine, ...]
    family: str = ""  # of the targets; empty: no target, both families

    @property
    def flags(self) -> FlagFilter:
        """Return the TCP flags that its parts test."""
        return self.machines[0].flags

    @property
    def within_ms(self) -> int:
        """Return the deadline of its parts."""
        return self.machines[0].within_ms

    @property
    def families(self) -> Sequence[str]:
        """Return the address families that it has chains for, as "4", "6" or "46"."""
        return self.family or "46"

    def fingerprint(self) -> str:
        """Return a digest of the content: attempts in progress survive a reload only if the states stay the same."""
        tables = [(m.flags, m.within_ms, m.root, m.target, m.edges) for m in self.machines]
        return hashlib.blake2s(repr(tables).encode(), digest_size=4).hexdigest()

    def mark(self, family: str) -> str:
        """Return the suffix of the names of its chains and maps."""
        return f"{family}_{self.fingerprint()}"

    def key(self, family: str) -> str:
        """Return the nftables expression that identifies a source."""
        return f"{SOURCES[family]} . {DESTINATIONS[family]}" if self.family == "4" else SOURCES[family]

    def key_type(self, family: str) -> str:
        """Return the nftables type of `key`."""
        return f"{ADDRESS_TYPES[family]} . {ADDRESS_TYPES[family]}" if self.family == "4" else ADDRESS_TYPES[family]

    def destination(self) -> str:
        """Return the match for the only IPv6 address that it is for, if it is for one."""
        target = self.machines[0].target if self.family == "6" else None
        return f"{DESTINATIONS['6']} {ip_address(target)} " if target else ""

    def restart(self, family: str) -> list[str]:
        """Return the rules that reset a source; its progress entry counts only together with a deadline."""
        return [
            f"delete @{name}{self.mark(family)} {{ {self.key(family)} : 0:0 }}"
            for name in ("first_knock", "short_window")
        ]


def build_groups(machines: Iterable[Machine]) -> list[Group]:
    """Group the parts of an automaton, in order."""
    found: dict[tuple[object, ...], list[Machine]] = {}
    for machine in machines:
        if machine.target is None:
            found[machine.flags, machine.within_ms, ""] = [machine]
        elif len(machine.target) == 4:
            found.setdefault((machine.flags, machine.within_ms, "4"), []).append(machine)
        else:
            found[machine.flags, machine.within_ms, "6", machine.target] = [machine]
    return [Group(tuple(members), str(key[2])) for key, members in found.items()]


def chain(name: str, rules: Iterable[str], comment: str = "") -> str:
    """Return the text of one chain, one rule per line."""
    head = f"# {comment}\n" if comment else ""
    return head + f"chain {name} {{\n" + "".join(f"    {rule}\n" for rule in rules) + "}\n"


def group_chains(group: Group, family: str, *, on_wrong: Sequence[str], log_steps: bool) -> list[str]:
    """Return one group's chains for one family; `on_wrong` are the rules for a wrong knock packet."""
    key, mark = group.key(family), group.mark(family)
    clear_progress = f"delete @progress{mark} {{ {key} : 0:0 }}"
    completes = any(state in machine.completes for machine in group.machines for state in machine.first_states)
    entered = "goto entered" if completes or log_steps else "return"
    begin = [
        clear_progress,
        f"add @first_knock{mark} {{ {key} : meta priority }} {entered}",
        f"add @short_window{mark} {{ {key} : meta priority }} counter name short_window {entered}",
        "counter name short_window_full",
    ]
    advance = [
        clear_progress,
        f"add @progress{mark} {{ {key} : meta priority }} goto entered",
        *group.restart(family),  # without room for the longer prefix the shorter one must not remain
        "counter name progress_full",
    ]
    root = f"{DESTINATIONS[family]} map @roots{mark}" if group.family else classid(group.machines[0].root)
    falls = max(machine.longest_failure_chain() for machine in group.machines)
    return [
        chain(f"begin{mark}", begin, "the first knock: its deadline starts"),
        chain(f"advance{mark}", advance, "a later knock, within the deadline"),
        chain(f"first{mark}", [f"meta priority set {root}", f"{_MOVE} goto begin{mark}"]),
        chain(
            f"restart{mark}",
            [*group.restart(family), *on_wrong, f"goto first{mark}"],
            "a wrong knock may be a first one",
        ),
        *(chain(f"fall{mark}_{n}", _fall(mark, n, falls)) for n in range(falls, 0, -1)),
        chain(f"match{mark}", _match(mark, key, falls)),
    ]


def _match(mark: str, key: str, falls: int) -> list[str]:
    return [
        "meta priority set 0:0",
        f"meta priority set {key} map @first_knock{mark}",
        f"meta priority set {key} map @short_window{mark}",
        f"meta priority 0:0 goto first{mark}",
        f"meta priority set {key} map @progress{mark}",
        f"{_MOVE} goto advance{mark}",
        "meta priority . meta l4proto . th dport @same return",
        *([f"meta priority set meta priority map @fail goto fall{mark}_1"] if falls else []),
        f"goto restart{mark}",
    ]


def _fall(mark: str, n: int, falls: int) -> list[str]:
    """Return the rules that try the n-th shorter prefix; failure links are unrolled up to the longest chain."""
    deeper = [f"meta priority set meta priority map @fail goto fall{mark}_{n + 1}"] if n < falls else []
    return [f"{_MOVE} goto advance{mark}", *deeper, f"goto restart{mark}"]
