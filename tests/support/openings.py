"""Openings, entries and doors in few words."""

from __future__ import annotations

from ipaddress import ip_address

from doorward.model import Door, Element, Opening, Port


def ports(text: str) -> tuple[Port, ...]:
    """Read `22/tcp 80/tcp`."""
    return tuple(Port.parse(word) for word in text.split())


def opening(
    door: str = "ssh",
    address: str = "192.0.2.7",
    opened: str = "22/tcp",
    since_s: float = 1000.0,
    until_s: float = 1030.0,
    by: str = "knock",
) -> Opening:
    """Return an opening; what a test does not name does not matter to it."""
    return Opening(door, ip_address(address), ports(opened), since_s, until_s, by)


def element(text: str) -> Element:
    """Read `192.0.2.7 22/tcp`, or with ` once` behind it."""
    address, port, *once = text.split()
    return Element(ip_address(address), Port.parse(port), bool(once))


def door(name: str, opens: str, knock: str = "", for_ms: int = 30_000, *, once: bool = False) -> Door:
    """Return a door that opens `opens`."""
    return Door(name, ports(knock), ports(opens), for_ms=for_ms, once=once)
