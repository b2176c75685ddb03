"""Command lines of knockd.conf: iptables, ufw, firewall-cmd, nft, and anything else that is there."""

from __future__ import annotations

from doorward.importer.firewall_commands import parse_command, reverts
from doorward.model import Port, Protocol

OPENING = parse_command("iptables -A INPUT -s %IP% -p tcp --dport 22 -j ACCEPT", lambda *_: None).rule


def service(name: str, protocol: Protocol) -> int | None:
    """Look a name up in a few services."""
    return {"ssh": 22, "domain": 53}.get(name) if protocol is Protocol.TCP or name == "domain" else None


def one(data: bytes) -> None:
    """Understand a command, or say why not."""
    assert OPENING is not None
    command = data.decode(errors="replace")
    rule, why = parse_command(command, service)
    assert (rule is None) == bool(why)
    if rule is not None:
        assert all(port == Port.parse(str(port)) for port in rule.ports)
        assert rule.ports
        assert "%IP%" in command
    assert not reverts(command, OPENING, service) or rule is None or not rule.opens
