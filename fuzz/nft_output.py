"""The open sets and those of the banned, as nft lists them."""

from __future__ import annotations

from contextlib import suppress
from ipaddress import IPv4Address, IPv6Network

from doorward.errors import HostError
from doorward.nftables.ban_sets import parse_bans
from doorward.nftables.libnftables import read_elements


def one(data: bytes) -> None:
    """Read the sets: ports that exist, and times that are none of the past."""
    with suppress(HostError):
        for element, left_s in read_elements(data.decode(errors="replace")).items():
            assert 1 <= element.port.number <= 65535
            assert left_s >= 0
    with suppress(HostError):
        for ban, _ in parse_bans(data.decode(errors="replace")):
            assert isinstance(ban, IPv4Address) or (isinstance(ban, IPv6Network) and ban.prefixlen == 64)
