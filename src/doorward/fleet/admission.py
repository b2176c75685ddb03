"""Decide which of the fleet's openings this gate applies, and for how long. Pure.

Anyone who can write to etcd can announce any opening, so the gate's own configuration sets the limits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from ipaddress import IPv6Address
from typing import NamedTuple

from doorward.core.signed_rules import MAX_HOLDERS, Holders
from doorward.fleet.protocol import Item
from doorward.model import BY_FLEET, Address, Door, Opening, Share, Source
from doorward.nftables.ruleset import OPEN_NETS_SIZE, OPEN_SIZE

SHORTEST_PREFIX = {4: 16, 6: 48}  # one site; a wider network would include unrelated hosts
MAX_ENTRIES = {False: OPEN_SIZE * 3 // 4, True: OPEN_NETS_SIZE * 3 // 4}  # the rest is reserved for knocks at this gate
MAX_SIGNERS = MAX_HOLDERS * 3 // 4  # of one opening, that the fleet announces; the rest is reserved likewise
_ORIGINS = ("knock", "key", "hand")


class Limits(NamedTuple):
    """What this gate's configuration allows the fleet; `for_max_ms` None: each door's own `for`."""

    for_max_ms: int | None
    allows_networks: bool  # true with [signed]


class Rejected(NamedTuple):
    """Why an opening of the fleet, or a signed knock, is rejected: a code for counters, a sentence for the operator."""

    reason: str
    message: str


FULL = Rejected("full", "the fleet's share of the open sets is full; `doorward status` lists the openings")


class Room:
    """The room left for the fleet's openings, for each share as much as an opening takes in the open sets."""

    def __init__(self, openings: Iterable[Opening]) -> None:
        self._used: Counter[tuple[bool, int]] = Counter()
        for opening in openings:
            self._used[_open_set(opening.address)] += len(opening.ports) * len(Holders.of(opening).shares)

    def reserve(self, opening: Opening, known: Opening | None) -> bool:
        """Count an opening with one share, unless `known` has it; return False if there is no room for it."""
        holders, (share,) = Holders.of(known), opening.shares
        if known is not None and (not share.signer or any(each.by == share.by for each in holders.shares)):
            return True
        if sum(each.by.startswith(BY_FLEET) for each in holders.shares) >= MAX_SIGNERS or holders.hold(share) is None:
            return False
        kind = _open_set(opening.address)
        if self._used[kind] + len(opening.ports) > MAX_ENTRIES[kind[0]]:
            return False
        self._used[kind] += len(opening.ports)
        return True


def admit(item: Item, door: Door | None, limits: Limits, now_ms: int) -> Opening | Rejected | None:
    """Return the opening to apply here, or why it was rejected; None if there is nothing to do.

    `door` is this gate's door of that name. A missing door and an opening that has ended are both normal.
    """
    if door is None or not door.all_opens or door.exclusion(item.key.address):
        return None
    until_ms = _until_ms(item, limits.for_max_ms or door.for_ms, now_ms)
    if until_ms <= now_ms:
        return None
    if not door.shared:
        return Rejected("door", f"door {door.name} is not shared here; set shared = true in [doors.{door.name}]")
    way = item.by.split(" ", 1)[0]
    if way not in _ORIGINS or (item.key.signer and way != "key"):
        return Rejected("way", "unknown origin: openings come from a knock, a key or an operator")
    if rejected := _reject_address(item.key.address, limits):
        return rejected
    if door.once and not isinstance(item.key.address, Address):
        return Rejected("once", f"door {door.name} opens for one connection here, and not to a network")
    # A holder of its own: what etcd says of a signer uses up nothing of what that signer may open here.
    holder = BY_FLEET + item.key.signer if item.key.signer else "fleet"
    share = Share(holder, until_ms / 1000, item.dated_ms, item.by, door.once)
    ports = door.opens_to(item.key.address)
    return Opening(door.name, item.key.address, ports, now_ms / 1000, until_ms / 1000, item.by, (share,))


def _until_ms(item: Item, longest_ms: int, now_ms: int) -> int:
    """Return when the opening ends here; an opening that is announced again does not start over."""
    return min(item.until_ms, item.until_ms - item.for_ms + longest_ms, now_ms + longest_ms)


def _reject_address(source: Source, limits: Limits) -> Rejected | None:
    mapped = isinstance(source, IPv6Address) and source.ipv4_mapped is not None
    if mapped or source.is_unspecified or source.is_multicast or source.is_loopback or source.is_link_local:
        return Rejected("address", f"{source} is not the address of a client")
    if isinstance(source, Address):
        return None
    if not limits.allows_networks:
        return Rejected("network", "this gate does not open networks; that requires [signed]")
    shortest = SHORTEST_PREFIX[source.version]
    if not shortest <= source.prefixlen < source.max_prefixlen:
        return Rejected("prefix", f"IPv{source.version} networks have a prefix from /{shortest}; open it at this gate")
    return None


def _open_set(source: Source) -> tuple[bool, int]:
    """Return the open set for an address or network: whether it is the set of networks, and the family."""
    return not isinstance(source, Address), source.version
