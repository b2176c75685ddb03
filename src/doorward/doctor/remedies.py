"""The commands that let marked packets through each firewall, and those that take back what they did. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

from doorward.config.schema import Mark
from doorward.doctor.host import BaseChain, Block, OwnDrop
from doorward.doctor.rules import ForeignRuleset
from doorward.model import Port, PortRange

UFW_FILES = {"iptables": "/etc/ufw/before.rules", "ip6tables": "/etc/ufw/before6.rules"}
TAG = "--comment doorward"  # in the rules that ufw and firewalld keep; for firewalld, a colon and the zone may follow
_OWN = re.compile(r'--comment "?doorward[: "]')
_OWN_DROP = re.compile(r'-p (\w+)(?: -m \w+)? --dport (\d+)(?::(\d+))? .*--comment "?doorward(?::([\w-]+))?"? -j DROP$')
# Word by word: a comment may contain line breaks, so that a part of it looks like a rule, with any option of iptables.
_OWN_ACCEPT = re.compile(
    r"-A (ufw6?-before-\w+ (?:-m mark --mark \S+ |-m conntrack --ctstate \S+ )?"
    r'-m comment --comment "?doorward"? -j ACCEPT)'
)
_ZONE = re.compile(r", chain filter_IN_(?!policy_)([\w-]+?)(?<!_pre|_log)(?<!_deny|_post): ")
GATE_PRIORITY = -150  # of the gate's prerouting chain
DEFAULT_MARK = Mark(0x1000, 0x1000)  # none of the bits that kube-proxy, Calico, Tailscale and wg-quick use


class Scope(NamedTuple):
    """What a remedy lets through: ports, in connection states, where the gate marks packets.

    `interfaces` are those that the gate watches, all if empty; `versions` the IP versions of the host; `is_behind` is
    whether some ports are of hosts behind this one, for which the gate marks packets at `forward`.
    """

    ports: Sequence[Port | PortRange]
    states: Collection[str]
    interfaces: Sequence[str] = ()
    versions: Collection[int] = (4, 6)
    is_behind: bool = False


class Remedy(NamedTuple):
    """A remedy in words, and the commands that perform it."""

    text: str
    commands: tuple[str, ...]


def owning_firewall(block: Block) -> str:
    """Return the program that owns the table: firewalld, ufw, docker, iptables or nft."""
    table = block.table
    if table.name.endswith(" firewalld") or "INPUT_direct" in table.chains:
        return "firewalld"
    if block.base.hook == "forward" and "DOCKER-USER" in table.chains:
        return "docker"
    if "ufw-before-input" in table.chains or "ufw6-before-input" in table.chains:
        return "ufw"
    return "nft" if table.owner == "nft" else "iptables"


def precedes_gate(base: BaseChain, *, is_behind: bool = False) -> bool:
    """Return whether the chain sees packets before the gate can mark them: those to hosts behind it at `forward`."""
    hooks = ("ingress", "prerouting", "forward") if is_behind else ("ingress", "prerouting")
    return base.hook in hooks[:-1] or (base.hook == hooks[-1] and base.priority < GATE_PRIORITY)


def build_remedy(block: Block, mark: Mark, scope: Scope) -> Remedy:
    """Return what lets packets through: of "new" connections by the mark, of "established" ones by their state."""
    kind = owning_firewall(block)
    if _OWN.search(block.rule):
        words = "this rule is doorward's own, for another accept_mark: take it back, then `doorward doctor --fix`"
        return Remedy(words, ("doorward doctor --undo",))
    if kind == "firewalld" and "INPUT_direct" not in block.table.chains:
        return _firewalld(block, mark, scope)
    if precedes_gate(block.base, is_behind=scope.is_behind):
        rules = [_by_port(block, port) for port in scope.ports]
        return _first("this runs before doorward's gate: accept these ports here first", block, rules)
    makers = {"new": _by_mark, "established": _by_state}
    rules = [make(block, mark) for state, make in makers.items() if state in scope.states]
    if kind == "firewalld":
        version = "ipv6" if block.table.versions == (6,) else "ipv4"
        place, chain = f"{version} filter {block.base.chain} 0", f"{block.base.chain}_direct"
        old = [text.removeprefix(f"-A {chain} ") for _, text in block.table.chains.get(chain, ()) if _OWN.search(text)]
        changes = [f"--direct --remove-rule {place} {rule}" for rule in old]
        changes += [f"--direct --add-rule {place} {rule} -m comment {TAG} -j ACCEPT" for rule in rules]
        return Remedy("have firewalld accept the mark (`doorward doctor --fix`)", tuple(_lasting(changes)))
    if kind == "ufw":
        return _ufw(block, rules)
    if kind == "docker":
        verdict = "RETURN" if "DOCKER-USER" in block.rule.partition(" -A ")[2].split()[:1] else "ACCEPT"
        commands = [f"{block.table.owner} -I DOCKER-USER {rule} -j {verdict}" for rule in rules]
        return Remedy("accept the mark in DOCKER-USER, Docker's chain for custom rules", tuple(commands))
    if kind == "iptables":
        return _first("insert this rule first, and save it (netfilter-persistent save)", block, rules)
    return _first("insert this rule first in the chain, also in /etc/nftables.conf", block, rules)


def _first(words: str, block: Block, rules: Iterable[str]) -> Remedy:
    if block.table.owner == "nft":
        command = f"nft insert rule {block.table.name} {block.base.chain}"
        return Remedy(words, tuple(f"{command} {rule} accept" for rule in rules))
    name = block.table.name.partition(" -t ")[2]
    command = f"{block.table.owner} -t {name} -I {block.base.chain}"
    return Remedy(words, tuple(f"{command} {rule} -j ACCEPT" for rule in rules))


def _by_mark(block: Block, mark: Mark) -> str:
    if block.table.owner == "nft":
        return f"meta mark and {mark.mask:#x} == {mark.value:#x}"
    return f"-m mark --mark {mark}"


def _by_state(block: Block, _: Mark) -> str:
    return (
        "ct state established,related" if block.table.owner == "nft" else "-m conntrack --ctstate RELATED,ESTABLISHED"
    )


def _by_port(block: Block, port: Port | PortRange) -> str:
    numbers, _, protocol = str(port).partition("/")
    return f"{protocol} dport {numbers}" if block.table.owner == "nft" else _iptables_port(port)


def _iptables_port(port: Port | PortRange) -> str:
    numbers, _, protocol = str(port).partition("/")
    return f"-p {protocol} --dport {numbers.replace('-', ':')}"


def _firewalld(block: Block, mark: Mark, scope: Scope) -> Remedy:
    """Open ports in firewalld for marked packets alone.

    With nftables, firewalld's own rules cannot match marks, and it drops what direct rules accept. But direct rules
    come first and can drop: the port is opened in the zone, behind rules that drop unmarked packets. firewalld reports
    success even where it cannot load these, so iptables is asked before the port is opened.
    """
    zone = _ZONE.search(block.rule)
    if block.base.hook != "input" or not (zone or ", chain filter_INPUT: " in block.rule):
        return Remedy("firewalld drops it here, whatever ports are open in its zones: change that rule", ())
    named, tag = (f"--zone={zone[1]} ", f"{TAG}:{zone[1]}") if zone else ("", TAG)
    unmarked = f"-m conntrack ! --ctstate RELATED,ESTABLISHED -m mark ! --mark {mark} -m comment {tag} -j DROP"
    matches = [f"-i {name.replace('*', '+')}" for name in scope.interfaces] or ["! -i lo"]
    rules = [f"INPUT 0 {match} {_iptables_port(port)} {unmarked}" for port in scope.ports for match in matches]
    direct = [f"--direct --add-rule {version} filter {rule}" for rule in rules for version in ("ipv4", "ipv6")]
    programs = [program for version, program in ((4, "iptables"), (6, "ip6tables")) if version in scope.versions]
    checks = [f"{program} -C {rule.replace(' 0', '', 1)}" for rule in rules for program in programs]
    openings = [f"{named}--add-port={port}" for port in scope.ports]  # one each: some may be open already
    words = "open the port in firewalld, behind a rule that drops all unmarked packets to it (`doorward doctor --fix`)"
    if scope.interfaces:
        words += "; interfaces of that zone that the gate does not watch have it open to everyone"
    return Remedy(words, (*_lasting(direct), *checks, *_lasting(openings)))


def _lasting(changes: Iterable[str]) -> Iterator[str]:
    """Yield the commands that change firewalld now and for its next start: a reload would drop its other changes.

    What the running one has, the permanent one has, too, even if this ends halfway: `--undo` looks there.
    """
    for change in changes:
        both = (f"firewall-cmd --permanent {change}", f"firewall-cmd {change}")
        yield from both if "--add-" in change else reversed(both)


def firewalld_removals(listed: str) -> Iterator[str]:
    """Yield the commands that take back what `listed`, firewalld's direct rules, has of doorward; ports first."""
    own = [line for line in listed.splitlines() if _OWN.search(line)]
    ports: dict[str, None] = {}
    for match in filter(None, map(_OWN_DROP.search, own)):
        named = f"--zone={match[4]} " if match[4] else ""
        ports[f"{named}--remove-port={_dropped_port(match)}"] = None
    yield from _lasting([*ports, *(f"--direct --remove-rule {line}" for line in own)])


def own_drops(ruleset: ForeignRuleset) -> Iterator[OwnDrop]:
    """Yield the rules by which firewalld drops unmarked packets to ports that `doctor --fix` opened."""
    for chain, rules in ruleset.chains.items():
        for _, text in rules:
            if match := _OWN_DROP.search(text):
                yield OwnDrop(ruleset.describe_rule(chain, text), _dropped_port(match))


def _dropped_port(match: re.Match[str]) -> str:
    return f"{match[2]}{f'-{match[3]}' if match[3] else ''}/{match[1]}"


def _ufw(block: Block, rules: Iterable[str]) -> Remedy:
    """Change ufw's file, and then its chain.

    Not by `ufw reload`: where any rule of the operator does not load, that drops established connections, too, and
    disables ufw. The file is tested, since that happens at the next boot otherwise.
    """
    prefix, program = ("ufw", "iptables") if block.table.versions == (4,) else ("ufw6", "ip6tables")
    chain, file = f"{prefix}-before-{block.base.hook}", UFW_FILES[program]
    lines = [f"{chain} {rule} -m comment {TAG} -j ACCEPT" for rule in rules]
    scripts = [f"/^-A {chain} .* {TAG} /d", *(f"/^# End required lines/a -A {line}" for line in lines)]
    edit = " ".join(("sed -i", *(f"-e '{script}'" for script in scripts), file))
    test = f"{program}-restore --noflush --test {file}"
    old = _deletions(program, (text for _, text in block.table.chains.get(chain, ())))
    inserts = [f"{program} -I {line}" for line in lines]
    return Remedy("have ufw accept the mark (`doorward doctor --fix`)", (edit, test, *old, *inserts))


def ufw_removals(program: str, listed: str) -> Iterator[str]:
    """Yield the commands that take back what ufw has of doorward; `listed`: `-S` of iptables or ip6tables."""
    yield from _deletions(program, listed.splitlines())
    yield f"sed -i -e '/ {TAG} /d' {UFW_FILES[program]}"


def _deletions(program: str, rules: Iterable[str]) -> Iterator[str]:
    return (f"{program} -D {match[1]}" for match in map(_OWN_ACCEPT.fullmatch, rules) if match)
