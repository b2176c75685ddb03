"""Follow an imagined packet through packet filters of any language, as far as their rules are understood.

A rule's match is True, False, or None where it is not understood. After None both ways are followed, so the outcome is
a set: a packet is dropped for certain only where no outcome lets it pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from doorward.model import Address, Port

MAX_DEPTH = 16  # NFT_JUMP_STACK_SIZE: the kernel refuses a longer chain of jumps
MAX_RULES = 200_000  # looked at for one packet; a ruleset that needs more is not judged
MAX_PATHS = 16


@dataclass(frozen=True, slots=True)
class Probe:
    """The packet. `source` None is a stranger's: in no range of addresses that a rule names."""

    port: Port
    iif: str
    source: Address | None
    destination: Address
    version: int
    mark: int | None = 0  # None: not known
    state: str = "new"
    oif: str | None = None  # None: not known, or delivered here
    is_local: bool = True
    translated_from: int | None = None  # the port that the client sent to, where a rule has changed the destination


Test = Callable[[Probe], bool | None]


class Match(NamedTuple):
    """A condition."""

    test: Test


class SetMark(NamedTuple):
    """A statement that changes the packet's mark."""

    change: Callable[[Probe], int | None]


class Verdict(NamedTuple):
    """What becomes of the packet: accept, drop, queue, return, jump, goto or dnat (to another destination)."""

    kind: str
    target: str = ""
    address: Address | None = None
    port: int | None = None


class Choice(NamedTuple):
    """A verdict map; where no test fits, the packet goes on."""

    options: tuple[tuple[Test, Verdict], ...]


class Helper(NamedTuple):
    """A statement that assigns a conntrack helper, such as ftp; `removal` is the command that deletes its rule."""

    name: str
    removal: str


Step = Match | SetMark | Verdict | Choice | Helper


class Rule(NamedTuple):
    """Steps in order; `name` tells the operator which rule it is."""

    steps: tuple[Step, ...]
    name: str


class Base(NamedTuple):
    """Where packets enter a table: `devices` limits it to interfaces (ingress)."""

    chain: str
    hook: str
    priority: int
    accepts: bool  # its policy
    devices: tuple[str, ...] = ()


class Table(NamedTuple):
    """One table of rules; `owner` is the program that shows it, such as nft or ip6tables-legacy."""

    owner: str
    name: str
    versions: tuple[int, ...]
    bases: tuple[Base, ...]
    chains: Mapping[str, tuple[Rule, ...]]


class Outcome(NamedTuple):
    """What may become of the packet in one base chain."""

    passes: bool
    rule: str
    probe: Probe


class Block(NamedTuple):
    """A rule that drops the packet; `certain` where nothing else can happen to it."""

    table: Table
    base: Base
    rule: str
    certain: bool


class Journey(NamedTuple):
    """Where the packet arrives (each way that it may take after prerouting), and what drops it."""

    arrives: list[Probe]
    blocks: list[Block]


class TooLargeError(Exception):
    """The ruleset needs more steps than are worth following."""


def journey(
    tables: Iterable[Table],
    probe: Probe,
    route: Callable[[Probe], Probe],
    *,
    gate_priority: int,
    mark_of_gate: Callable[[Probe], Probe] = lambda probe: probe,
) -> Journey:
    """Follow the packet to a socket of this host, or to where it is forwarded.

    `route` says where it goes after prerouting, `mark_of_gate` what doorward's own chain does to it at its priority.
    """
    found: dict[str, Block] = {}
    walks = [(table, base) for table in tables if probe.version in table.versions for base in table.bases]
    walks.sort(key=lambda walk: walk[1].priority)
    ahead = [walk for walk in walks if walk[1].hook == "prerouting" and walk[1].priority < gate_priority]
    behind = [walk for walk in walks if walk[1].hook == "prerouting" and walk not in ahead]
    met = _through([walk for walk in walks if walk[1].hook == "ingress"], [probe], found)
    met = [mark_of_gate(probe) for probe in _through(ahead, met, found)]
    routed = [route(probe) for probe in _through(behind, met, found)]
    for hook in ("input", "forward"):
        here = [probe for probe in routed if probe.is_local == (hook == "input")]
        _through([walk for walk in walks if walk[1].hook == hook], here, found)
    return Journey(routed, list(found.values()))


def _through(walks: Iterable[tuple[Table, Base]], probes: Iterable[Probe], found: dict[str, Block]) -> list[Probe]:
    """Take each packet through base chains, note what drops it, and give what comes out."""
    paths = list(dict.fromkeys(probes))
    for table, base in walks:
        elsewhere = [probe for probe in paths if base.devices and probe.iif not in base.devices]
        walked = [outcomes_of(table, base, probe) for probe in paths if probe not in elsewhere]
        passing = [outcome.probe for outcomes in walked for outcome in outcomes if outcome.passes]
        paths = list(dict.fromkeys([*elsewhere, *passing]))[:MAX_PATHS]
        for outcomes in walked:
            # Where nothing passes, the last rule is the one that leaves no other way.
            for outcome in outcomes if paths else outcomes[-1:]:
                if not outcome.passes:
                    found.setdefault(outcome.rule, Block(table, base, outcome.rule, not paths))
    return paths


def outcomes_of(table: Table, base: Base, probe: Probe) -> list[Outcome]:
    """Give everything that may become of the packet in a base chain; TooLargeError where that is too much work."""
    walk = _Walk(table)
    rest = walk.follow(base.chain, probe, 0)
    if rest is not None:
        walk.outcomes.append(Outcome(base.accepts, f"{table.name}, chain {base.chain}: its policy drops", rest))
    return walk.outcomes


class _Walk:
    def __init__(self, table: Table) -> None:
        self._table = table
        self._left = MAX_RULES
        self.outcomes: list[Outcome] = []

    def follow(self, chain: str, probe: Probe, depth: int) -> Probe | None:
        """Give the packet as it leaves the chain at its end or by a return; None where it certainly does not."""
        if depth > MAX_DEPTH:
            return probe
        may_return: Probe | None = None
        for rule in self._table.chains.get(chain, ()):
            self._left -= 1
            if self._left < 0:
                raise TooLargeError
            probe, leaves = self._rule(rule, probe, depth)
            if leaves == "ends":
                return may_return
            if leaves == "returns":
                return probe
            if leaves == "may return":
                may_return = probe
        return probe

    def _rule(self, rule: Rule, probe: Probe, depth: int) -> tuple[Probe, str]:
        """Give the packet after a rule, and whether it certainly "ends" or "returns" there, or "may return"."""
        fits: bool | None = True
        for step in rule.steps:
            match step:
                case Match(test):
                    result = test(probe)
                    if result is False:
                        return probe, ""
                    fits = fits and result
                case SetMark(change):
                    probe = replace(probe, mark=change(probe) if fits else None)
                case Verdict():
                    return self._verdict(step, rule, probe, fits, depth)
                case Choice(options):
                    for test, verdict in options:
                        result = test(probe)
                        if result is False:
                            continue
                        probe, leaves = self._verdict(verdict, rule, probe, fits and result, depth)
                        if leaves or (fits and result):
                            return probe, leaves
        return probe, ""

    def _verdict(self, verdict: Verdict, rule: Rule, probe: Probe, fits: bool | None, depth: int) -> tuple[Probe, str]:
        if verdict.kind in ("jump", "goto"):
            after = self.follow(verdict.target, probe, depth + 1)
            if not fits:
                changed = after is not None and after.mark != probe.mark
                leaves = "may return" if verdict.kind == "goto" and after is not None else ""
                return (replace(probe, mark=None) if changed else probe), leaves
            if after is None:
                return probe, "ends"
            return after, "returns" if verdict.kind == "goto" else ""
        if verdict.kind == "return":
            return probe, "returns" if fits else "may return"
        ended = _translated(probe, verdict) if verdict.kind == "dnat" else probe
        if verdict.kind == "queue":  # a program decides, which nobody can foresee
            self.outcomes.append(Outcome(True, rule.name, probe))
        self.outcomes.append(Outcome(verdict.kind in ("accept", "dnat"), rule.name, ended))
        return probe, "ends" if fits else ""


def _translated(probe: Probe, verdict: Verdict) -> Probe:
    """Give the packet with another destination; the one of the host itself where only the port changes."""
    port = probe.port._replace(number=verdict.port or probe.port.number)
    return replace(
        probe, port=port, destination=verdict.address or probe.destination, translated_from=probe.port.number
    )
