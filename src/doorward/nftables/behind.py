"""Chains and maps for ports of hosts behind this one, which doors hide and open for forwarded packets.

The chain at `forward` sees the address and port after every destination NAT, so the inner host's own. A packet that
no door's map names passes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from doorward.model import Door, HostPort
from doorward.nftables import maps, once_chains
from doorward.nftables.automaton_chains import ADDRESS_TYPES, DESTINATIONS, SOURCES, chain
from doorward.nftables.chains import ChainContext, hidden, unwatched

# Conntrack takes the next packet of a connection that is older than it for new. So for this time after the first load,
# packets without SYN pass. A connection that is idle until then ends, unless its host sends the next packet.
PICKED_UP, PICK_UP = "picked_up", "tcp timeout 5m"
MAPS = {family: f"behind{family}" for family in SOURCES}
REUSED = ("behind", *MAPS.values())


def look_up(families: Iterable[str]) -> list[str]:
    """Return the rules that send a packet to a hidden port of a host behind this one to the chain `behind`."""
    return [f"{DESTINATIONS[family]} . meta l4proto . th dport vmap @{MAPS[family]}" for family in families]


def families(doors: Sequence[Door]) -> str:
    """Return the address families of the hosts behind this one, as "4", "6", "46" or ""."""
    versions = {port.host.version for door in doors for port in door.behind}
    return "".join(family for family in SOURCES if int(family) in versions)


def texts(doors: Sequence[Door], context: ChainContext) -> list[str]:
    """Return everything that the ports of hosts behind this one need; [] if no door names one."""
    used = families(doors)
    if not used:
        return []
    ports = dict.fromkeys(port for door in doors for port in door.behind)
    rules = [
        "type filter hook forward priority mangle; policy accept;",
        "ct state established accept",
        *unwatched(context.gate, "accept"),
        *look_up(used),
    ]
    named = [_map(family, [port for port in ports if port.host.version == int(family)]) for family in used]
    return [_behind(used, context), *named, chain("forward", rules)]


def _map(family: str, ports: Sequence[HostPort]) -> str:
    element_type = f"{ADDRESS_TYPES[family]} . inet_proto . inet_service : verdict"
    return maps.ports(MAPS[family], element_type, dict.fromkeys(ports, "goto behind"), sized=False)


def _behind(used: str, context: ChainContext) -> str:
    """Return the chains for such a port."""
    keys = {family: f"{SOURCES[family]} . {DESTINATIONS[family]} . meta l4proto . th dport" for family in used}
    pick_up = f"tcp flags & syn == 0x0 meta l4proto @{PICKED_UP} accept"
    return hidden(context, "behind", once_chains.Lookup(keys, "_behind", "use_behind"), pick_up)
