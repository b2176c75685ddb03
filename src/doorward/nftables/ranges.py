"""The chains and maps of port ranges that doors open.

nftables cannot combine interval and dynamic sets. So an opening holds the range's first port, a map with intervals
leads from a packet's port to the chain of its range, and that chain looks up the first port in the open sets.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from doorward.model import Door, PortRange, Protocol
from doorward.nftables import once_chains
from doorward.nftables.automaton_chains import SOURCES
from doorward.nftables.chains import ChainContext, hidden

REUSED = ("ranges",)
CHAIN_PREFIX = "range_"


def of(doors: Iterable[Door]) -> list[PortRange]:
    """Return the ranges of all doors, each once, in order."""
    return sorted({span for door in doors for span in door.ranges})


def look_up(doors: Iterable[Door]) -> list[str]:
    """Return the rule that sends a packet to a port of a range to its chain; [] without ranges."""
    return ["meta l4proto . th dport vmap @ranges"] if of(doors) else []


def texts(doors: Sequence[Door], context: ChainContext) -> Iterator[str]:
    """Yield the chains and the map; nothing if no door opens a range."""
    for span in of(doors):
        # A constant is not allowed there; a port without its bits, and with those of another, is.
        first = f"meta l4proto . th dport & 0x0 | {span.number}"
        keys = {family: f"{source} . {first}" for family, source in SOURCES.items()}
        use = f"use_{_name(span)}_" if span.protocol is Protocol.TCP else ""
        yield hidden(context, _name(span), once_chains.Lookup(keys, use=use))
    if spans := of(doors):
        yield _intervals("map ranges", " : verdict", [f"{_span(span)} : goto {_name(span)}" for span in spans])


def exempt(doors: Iterable[Door]) -> str:
    """Return the ranges as a set."""
    return _intervals("set exempt_ranges", "", map(_span, of(doors)))


def _name(span: PortRange) -> str:
    return f"{CHAIN_PREFIX}{span.protocol.name.lower()}_{span.number}"


def _span(span: PortRange) -> str:
    return f"{span.protocol.name.lower()} . {span.number}-{span.last}"


def _intervals(head: str, data_type: str, elements: Iterable[str]) -> str:
    rows = "".join(f"        {element},\n" for element in elements)
    element_type = f"inet_proto . inet_service{data_type}"
    return f"{head} {{\n    type {element_type}\n    flags interval\n    elements = {{\n{rows}    }}\n}}\n"
