"""Openings for one connection: the first SYN through one removes its element, and is the only one let in.

    once        the open set of these openings
    once_limit  address . protocol . port : token bucket; of SYNs that processors see at the same moment, one passes
    once_syn    both ends of that connection: its SYN may be sent again before an answer, while conntrack calls it new

The removal causes no netlink event, so the packet is logged: the daemon then ends the opening (core/openings.py).
A chain that is consulted after another one, like a nat chain, has to be the one that jumps to `use`: once the element
is gone, the other would not find it.
"""

from __future__ import annotations

from collections.abc import Iterable

from doorward.config.duration import nft_duration
from doorward.core.port_access import SYN_S
from doorward.nftables.automaton_chains import DESTINATIONS, SOURCES, chain

SYN = "tcp flags & (fin | syn | rst | ack) == syn"
SIZE = 65536  # of each set; an element takes a knock
LIMIT_TIMEOUT, SYN_TIMEOUT = "1s", nft_duration(round(SYN_S * 1000))
_LOOK_UP = "meta l4proto . th dport"


def rules(accept: str) -> list[str]:
    """Return the rules for a packet to a hidden port; `accept` is the verdict for a SYN that is sent again."""
    first = [f"{SYN} {source} . {_LOOK_UP} @once{family} goto use{family}" for family, source in SOURCES.items()]
    return [*first, *(f"{SYN} {_both_ends(family)} @once_syn{family} {accept}" for family in SOURCES)]


def use_chains(log: str, accept: str, reject: str) -> Iterable[str]:
    """Return the chains for a SYN that found its element; `reject` is for one that another has overtaken."""
    for family, source in SOURCES.items():
        key = f"{source} . {_LOOK_UP}"
        steps = [
            # One token, and the next after 10 ms: by then every processor sees the element gone.
            f"update @once_limit{family} {{ {key} limit rate over 100/second burst 1 packets }} {reject}",
            f"delete @once{family} {{ {key} }}",
            f"add @once_syn{family} {{ {_both_ends(family)} }}",
            f"{log} {accept}",
        ]
        yield chain(f"use{family}", steps, "the one connection of an opening")


def _both_ends(family: str) -> str:
    return f"{SOURCES[family]} . tcp sport . {DESTINATIONS[family]} . tcp dport"
