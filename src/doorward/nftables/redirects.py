"""Chains and maps of openings that forward: destination NAT to a host behind this one, for open sources alone.

The chain at `prerouting`, priority dstnat, looks up the open set again. It never goes by the port alone: mode observe,
interfaces that are not watched and loopback pass the first chain. Where the look-up fails, it drops the packet, which
would otherwise reach this host's own port.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from doorward.config.schema import Mode
from doorward.model import Door, Port, Redirect
from doorward.nftables import maps, once_chains
from doorward.nftables.automaton_chains import ADDRESS_TYPES, SOURCES, chain
from doorward.nftables.chains import SHARED, ChainContext, unwatched

BASE_CHAINS = ("nat_prerouting", "nat_postrouting")
REUSED = ("redirects", "redirects4", "redirects6", "redirected", "masqueraded4", "masqueraded6", "masqueraded")
_FAMILIES = {"4": "ip", "6": "ip6"}


def unreachable(doors: Sequence[Door]) -> frozenset[tuple[str, Port]]:
    """Return the ports that are forwarded for the other address family only, each with the family that lacks it."""
    ports = {redirect.port for door in doors for redirect in door.redirects}
    reached = {(str(redirect.to.host.version), redirect.port) for door in doors for redirect in door.redirects}
    return frozenset((family, port) for family in _FAMILIES for port in ports if (family, port) not in reached)


def texts(doors: Sequence[Door], context: ChainContext) -> Iterator[str]:
    """Yield the chains and maps; nothing if no door forwards."""
    used: dict[str, dict[Redirect, bool]] = {}  # by family; True: masqueraded
    for door in doors:
        for redirect in door.redirects:
            known = used.setdefault(str(redirect.to.host.version), {})
            known[redirect] = door.masquerade or known.get(redirect, False)
    if not used:
        return
    yield _redirected(sorted(used), context)
    ports = dict.fromkeys((redirect.port for some in used.values() for redirect in some), "goto redirected")
    yield maps.ports("redirects", "inet_proto . inet_service : verdict", ports, sized=False)
    for family, some in used.items():
        targets = {redirect.port: f"{redirect.to.host} . {redirect.to.number}" for redirect in some}
        element_type = f"inet_proto . inet_service : {ADDRESS_TYPES[family]} . inet_service"
        yield maps.ports(f"redirects{family}", element_type, targets, sized=False)
    received = f"local, {SHARED}"  # a socket of this host could receive the packet
    rules = [
        "type nat hook prerouting priority dstnat; policy accept;",
        *unwatched(context.gate, "accept"),
        f"fib daddr type != {{ {received} }} fib daddr . iif type != {{ {received} }} accept",
        "meta l4proto . th dport vmap @redirects",
    ]
    yield chain("nat_prerouting", rules)
    yield from _masquerade({family: [r for r, is_hidden in some.items() if is_hidden] for family, some in used.items()})


def _redirected(families: Sequence[str], context: ChainContext) -> str:
    to = {f: f"dnat {_FAMILIES[f]} to meta l4proto . th dport map @redirects{f}" for f in families}
    one = [once_chains.sent_again(f, to[f]) for f in families] if context.is_for_one else []
    translate = [
        f"{SOURCES[family]} . meta l4proto . th dport @{name}{family} {to[family]}"
        for name in context.open_sets()
        for family in families
    ]
    last = "accept" if context.gate.mode is Mode.OBSERVE else "counter name dropped_closed drop"
    return chain("redirected", ["jump preexisting", *one, *translate, last])


def _masquerade(hidden: dict[str, list[Redirect]]) -> Iterator[str]:
    """Yield what gives redirected connections this host's address; the host behind does not see the client's."""
    if not any(hidden.values()):
        return
    ports = dict.fromkeys(redirect.port for some in hidden.values() for redirect in some)
    named = [f"meta l4proto {port.protocol.name.lower()} ct original proto-dst {port.number}" for port in ports]
    yield chain("masqueraded", [f"{match} masquerade" for match in named])
    look_up = []
    for family, some in hidden.items():
        if some:
            targets = dict.fromkeys((redirect.to for redirect in some), "goto masqueraded")
            element_type = f"{ADDRESS_TYPES[family]} . inet_proto . inet_service : verdict"
            yield maps.ports(f"masqueraded{family}", element_type, targets, sized=False)
            address = f"{_FAMILIES[family]} daddr"
            look_up.append(f"ct status dnat {address} . meta l4proto . th dport vmap @masqueraded{family}")
    yield chain("nat_postrouting", ["type nat hook postrouting priority srcnat; policy accept;", *look_up])
