"""Openings for one connection: the first SYN through one removes its element, and is the only one let in.

    once        the open set of these openings; once_behind: of those to hosts behind this one
    once_limit  element : token bucket; of SYNs that processors see at the same moment, one passes; once_behind_limit
    once_syn    both ends of that connection: its SYN may be sent again before an answer, while conntrack calls it new

The removal causes no netlink event, so the packet is logged: the daemon then ends the opening (core/openings.py).
A chain that sees the packet later, for destination NAT or at `forward`, finds it in `once_syn`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from doorward.config.duration import nft_duration
from doorward.core.port_access import SYN_S
from doorward.nftables.automaton_chains import DESTINATIONS, SOURCES, chain

SYN = "tcp flags & (fin | syn | rst | ack) == syn"
SIZE = 65536  # of each set; an element takes a knock
LIMIT_TIMEOUT, SYN_TIMEOUT = "1s", nft_duration(round(SYN_S * 1000))


class Lookup(NamedTuple):
    """How a chain for hidden ports looks up openings: the key of their sets, by family.

    `of` is in the names of the sets. `use` begins the names of the chains for a SYN that finds an element for one
    connection; "": there are none, since no port is one of TCP.
    """

    keys: Mapping[str, str]
    of: str = ""
    use: str = "use"

    def rules(self, accept: str) -> list[str]:
        """Return the rules for a packet to a hidden port; `accept` is the verdict for a SYN that is sent again."""
        first = [f"{SYN} {key} @once{self.of}{family} goto {self.use}{family}" for family, key in self.keys.items()]
        return [*first, *(sent_again(family, accept) for family in self.keys)]

    def use_chains(self, log: str, accept: str, reject: str) -> Iterable[str]:
        """Return the chains for a SYN that found its element; `reject` is for one that another has overtaken."""
        for family, key in self.keys.items():
            limit = f"{{ {key} limit rate over 100/second burst 1 packets }}"
            steps = [
                # One token, and the next after 10 ms: by then every processor sees the element gone.
                f"update @once{self.of}_limit{family} {limit} {reject}",
                f"delete @once{self.of}{family} {{ {key} }}",
                f"add @once_syn{family} {{ {_both_ends(family)} }}",
                f"{log} {accept}",
            ]
            yield chain(f"{self.use}{family}", steps, "the one connection of an opening")


def sent_again(family: str, accept: str) -> str:
    """Return the rule for the SYN of an opening's one connection that comes again, or to a later chain."""
    return f"{SYN} {_both_ends(family)} @once_syn{family} {accept}"


def _both_ends(family: str) -> str:
    return f"{SOURCES[family]} . tcp sport . {DESTINATIONS[family]} . tcp dport"
