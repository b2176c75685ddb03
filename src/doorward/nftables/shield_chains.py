"""What the gate has for the shield: a chain that opens for a packet that, as the shield reports, completes a knock.

The shield puts a token and the state into the packet's priority, or another mark if it counted the packet and no knock
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
    """How the shield marks packets.

    The token, and the bits of the priority with the state; `counted`: the priority of one that completes no knock.
    """

    token: int
    state_mask: int
    counted: int


def look_up(mark: ShieldMark | None) -> list[str]:
    """Return the rules for the packets that the shield marked; [] without a shield."""
    if mark is None:
        return []
    match, state = f"iifname @{INTERFACES} meta priority", classid(0xFFFF_FFFF & ~mark.state_mask)
    return [
        f"{match} {classid(mark.counted)} goto counted",
        f"{match} & {state} == {classid(mark.token)} goto shielded",
    ]


def shielded(mark: ShieldMark | None, banned: Sequence[str], last: str) -> str:
    """Return the chains for these packets.

    `banned` are the rules that let those of banned sources go to the chain `counted`; `last` is the verdict on knock
    packets, whatever they open.
    """
    if mark is None:
        return ""
    state = f"meta priority set meta priority & {classid(mark.state_mask)}"
    counted = chain("counted", ["meta priority set 0:0", last])
    return counted + chain("shielded", [state, *banned, "jump entered", "goto counted"])
