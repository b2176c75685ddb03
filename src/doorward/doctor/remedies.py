"""The commands that let marked packets through each firewall."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple

from doorward.config.schema import Mark
from doorward.doctor.host import BaseChain, Block
from doorward.model import Port

GATE_PRIORITY = -150  # of the gate's prerouting chain
DEFAULT_MARK = Mark(0x1000, 0x1000)  # none of the bits that kube-proxy, Calico, Tailscale and wg-quick use


class Remedy(NamedTuple):
    """A remedy in words, and the commands that perform it."""

    text: str
    commands: tuple[str, ...]


def owning_firewall(block: Block) -> str:
    """Return the program that owns the table: firewalld, ufw, docker, iptables or nft."""
    table = block.table
    if table.name.endswith(" firewalld") or "INPUT_direct" in table.chains:
        return "firewalld"
    if "ufw-before-input" in table.chains or "ufw6-before-input" in table.chains:
        if block.base.hook == "forward" and "DOCKER-USER" in table.chains:
            return "docker"
        return "ufw"
    if block.base.hook == "forward" and "DOCKER-USER" in table.chains:
        return "docker"
    return "nft" if table.owner == "nft" else "iptables"


def precedes_gate(base: BaseChain) -> bool:
    """Return whether the chain sees packets before doorward's gate can mark them."""
    return base.hook == "ingress" or (base.hook == "prerouting" and base.priority < GATE_PRIORITY)


def build_remedy(block: Block, mark: Mark, ports: Iterable[Port], states: Collection[str]) -> Remedy:
    """Return what lets these ports through: "new" connections by the mark, "established" ones by their state."""
    kind = owning_firewall(block)
    if kind == "firewalld" and "INPUT_direct" not in block.table.chains:
        return _firewalld(ports)
    if precedes_gate(block.base):
        rules = [_by_port(block, port) for port in ports]
        return _first("this runs before doorward's gate: accept these ports here first", block, rules)
    makers = {"new": _by_mark, "established": _by_state}
    rules = [make(block, mark) for state, make in makers.items() if state in states]
    if kind == "firewalld":
        version = "ipv6" if block.table.versions == (6,) else "ipv4"
        direct = f"firewall-cmd --permanent --direct --add-rule {version} filter {block.base.chain} 0"
        commands = [f"{direct} {rule} -j ACCEPT" for rule in rules]
        return Remedy("have firewalld accept the mark", (*commands, "firewall-cmd --reload"))
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


def _by_port(block: Block, port: Port) -> str:
    protocol = port.protocol.name.lower()
    return f"{protocol} dport {port.number}" if block.table.owner == "nft" else f"-p {protocol} --dport {port.number}"


def _firewalld(ports: Iterable[Port]) -> Remedy:
    """Open ports in firewalld: its rules cannot match marks, and it drops what other tables accept."""
    opened = " ".join(f"--add-port={port}" for port in ports)
    words = "firewalld cannot match marks: open the port there; doorward's gate, which runs first, hides it"
    return Remedy(words, (f"firewall-cmd --permanent {opened}", "firewall-cmd --reload"))


def _ufw(block: Block, rules: Iterable[str]) -> Remedy:
    chain, file = ("ufw", "before.rules") if block.table.versions == (4,) else ("ufw6", "before6.rules")
    where = f"/etc/ufw/{file}"
    lines = [f"-A {chain}-before-{block.base.hook} {rule} -j ACCEPT" for rule in rules]
    commands = [f"sed -i '/^# End required lines/a {line}' {where}" for line in lines]
    return Remedy(f"add the rule to {where}", (*commands, "ufw reload"))
