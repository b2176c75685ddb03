"""What the gate has for the shield: a chain that opens for a packet that, as the shield reports, completes a knock.

The shield puts a token and the state into the packet's priority, with the state 0 if it counted the packet and no knock
is complete. Anyone can set a priority: the rule accepts it only on an interface that has a shield, which lo never has,
and there the shield clears the token on all other packets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from doorward.nftables.automaton_chains import chain
from doorward.nftables.maps import classid

INTERFACES, SIZE = "shielded", 256  # the set of interfaces with a shield: the daemon lists them


class ShieldMark(NamedTuple):
    """How the shield marks a packet that completes a knock: the token, and the bits of the priority with the state."""

    token: int
    state_mask: int


def look_up(mark: ShieldMark | None) -> list[str]:
    """Return the rule for the packets that the shield marked; [] without a shield."""
    if mark is None:
        return []
    token, mask = mark
    test = f"iifname @{INTERFACES} meta priority & {classid(0xFFFF_FFFF & ~mask)} == {classid(token)}"
    return [f"{test} goto shielded"]


def shielded(mark: ShieldMark | None, banned: Sequence[str]) -> str:
    """Return the chain for these packets; `banned` are the rules that drop those of banned sources."""
    if mark is None:
        return ""
    state = f"meta priority set meta priority & {classid(mark.state_mask)}"
    judged = "meta priority 0:0 goto needs"  # and it completes nothing: not to be counted again
    return chain("shielded", [state, judged, *banned, "jump entered", "meta priority set 0:0", "goto needs"])
