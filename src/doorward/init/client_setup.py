"""What clients need to open doors: a link, a table of hosts.toml, and the import formats of phone apps. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address
from typing import Any

from doorward.client.hosts_writer import HostValue, host_table
from doorward.client.link_uri import MAX_DOORS, KnockLink, format_link, parse_link, unless_default
from doorward.config.schema import Configuration
from doorward.errors import MalformedError, UsageError
from doorward.model import TCP_FLAGS, Door, Port, Protocol

MAX_DELAY_MS = 250  # between two packets: a mobile network may reorder closer ones
_WITHIN_DIVISOR = 2  # the other half is for network latency


def is_shareable(door: Door, *, signed: bool) -> bool:
    """Return whether clients can open a door of this host, by a signed knock or by plain SYNs and datagrams."""
    return signed or is_knockable(door)


def is_knockable(door: Door) -> bool:
    """Return whether the door has a sequence that an unprivileged program can send to this host."""
    return bool(door.knock) and matches_syn(door) and door.target is None


def matches_syn(door: Door) -> bool:
    """Return whether the door's flags match a plain SYN; datagrams have no flags."""
    has_tcp = any(port.protocol is Protocol.TCP for port in door.knock)
    return not has_tcp or door.flags.passes(TCP_FLAGS["syn"])


def knock_link(configuration: Configuration, key: str | None, address: str, doors: Iterable[Door]) -> KnockLink:
    """Return the link for these doors; `key` is the server's public key if signed knocks are enabled.

    UsageError: they do not fit into a link.
    """
    shared = [
        (door.name, door.knock if is_knockable(door) else ())
        for door in doors
        if is_shareable(door, signed=key is not None)
    ]
    gate = configuration.gate.name if key is not None else None
    ports = unless_default(configuration.signed_ports) if key is not None else ()
    confirm = key is not None and bool(configuration.confirming_ports)
    link = KnockLink(_without_brackets(address), ports, key, gate, tuple(shared), confirm)
    try:
        parse_link(format_link(link))
    except MalformedError as error:
        raise UsageError(error.code, f"cannot create a link: {error}") from None
    return link


def validate_address(text: str) -> str:
    """Return `text` if it is a host name or address that fits into a link; raise UsageError otherwise."""
    example = KnockLink(_without_brackets(text), doors=(("door", (Port(Protocol.TCP, 1),)),))
    try:
        parse_link(format_link(example))
    except MalformedError:
        raise UsageError(
            "invalid-host", f"invalid host {text[:60]!r}: expected a name or an address, e.g. 192.0.2.7"
        ) from None
    return text


def shareable_doors(configuration: Configuration, *, signed: bool) -> tuple[list[Door], int]:
    """Return the doors that fit into one link, and the number of those that do not."""
    doors = [door for door in configuration.doors if is_shareable(door, signed=signed)]
    return doors[:MAX_DOORS], len(doors[MAX_DOORS:])


def hosts_table(name: str, link: KnockLink) -> str:
    """Return the link as a table of hosts.toml, as `doorward add` writes it."""
    values: dict[str, HostValue | None] = {
        "address": link.host,
        "server_key": link.key,
        "signed_port": link.signed_ports,
        "gate": link.gate,
        "confirm": link.confirm,
    }
    return host_table(name, {key: value for key, value in values.items() if value}, dict(link.doors))


def knock_on_ports(door: Door, address: str) -> dict[str, Any]:
    """Return the import format of the Android app Knock on Ports: version 1 of its export, according to its source.

    Datagrams carry a byte, since some routers drop empty ones.
    """
    _reject_unknockable(door)
    steps = [
        {"type": port.protocol.name.lower(), "port": port.number}
        | ({"content": "0", "encoding": "raw"} if port.protocol is Protocol.UDP else {})
        for port in door.knock
    ]
    sequence = {
        "name": f"{door.name} at {address}",
        "host": _without_brackets(address),
        "delay": delay_ms(door),
        "ipv": _ip_versions(address),
        "steps": steps,
    }
    return {"version": 1, "sequences": [sequence]}


def knockd_stanza(door: Door, address: str) -> str:
    """Return a section of knockd.conf, which that app and others import; they ask for the host."""
    _reject_unknockable(door)
    ports = ",".join(f"{port.number}:{port.protocol.name.lower()}" for port in door.knock)
    return (
        f"# a door of {address}\n[{door.name}]\n"
        f"    sequence = {ports}\n    seq_timeout = {max(1, door.within_ms // 1000)}\n    tcpflags = syn,!ack\n"
    )


def delay_ms(door: Door) -> int:
    """Return the pause between two packets: long enough for a mobile network, short enough for the door's `within`."""
    return min(MAX_DELAY_MS, door.within_ms // _WITHIN_DIVISOR // max(1, len(door.knock) - 1))


def _reject_unknockable(door: Door) -> None:
    if not door.knock:
        raise UsageError(
            "no-sequence",
            f"door {door.name!r} has no sequence; share it as a link (--format doorward), for signed knocks",
        )
    if not matches_syn(door):
        raise UsageError(
            "door-needs-flags",
            f"door {door.name!r}: its `flags` ({door.flags}) do not match a plain SYN, the only packet that apps send",
        )


def _ip_versions(address: str) -> str:
    """Return the app's IP version setting; for a name both, since the later connection may use either."""
    try:
        return f"only_ipv{ip_address(_without_brackets(address)).version}"
    except ValueError:
        return "both_ipv4_ipv6"


def _without_brackets(address: str) -> str:
    """Return the address without the brackets of IPv6."""
    return address[1:-1] if address.startswith("[") and address.endswith("]") else address
