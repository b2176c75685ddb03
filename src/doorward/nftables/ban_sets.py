"""The ban sets: IPv4 addresses, and the /64 networks of IPv6 addresses. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, IPv6Address, IPv6Network

from doorward.errors import HostError
from doorward.model import Address, Source, parse_address, source_text
from doorward.nftables.maps import timeout_commands

Bans = Mapping[Source, float]  # remaining seconds
SIZE = 65536  # of each set; the daemon allows fewer
NAMES = ("banned4", "banned6")
_ELEMENT = re.compile(r"([0-9a-f.:]*[.:][0-9a-f.:]*) timeout \w+ expires ((?:[0-9]{1,15}(?:ms|[smhd]))+)")


def ban_network(address: Address) -> Source:
    """Return what to ban for an address: for IPv6 its /64, since one host can use all addresses in it."""
    return address if isinstance(address, IPv4Address) else IPv6Network((int(address) >> 64 << 64, 64))


def covers(ban: Source, source: Source) -> bool:
    """Return whether a ban covers an address, or a whole network."""
    if isinstance(source, IPv4Address | IPv6Address):
        return ban_network(source) == ban
    return isinstance(ban, IPv6Network) and source.version == 6 and source.subnet_of(ban)


def ban_commands(table: str, bans: Bans) -> Iterable[str]:
    """Return commands that add or extend bans."""
    for ban, left_s in bans.items():
        yield from timeout_commands(f"{table} banned{ban.version}", _key(ban), left_s)


def unban_commands(table: str, ban: Source) -> str:
    """Return commands that remove a ban, present or not."""
    where, key = f"{table} banned{ban.version}", _key(ban)
    return f"add element {where} {{ {key} timeout 1s }}\ndelete element {where} {{ {key} }}"


def parse_bans(text: str) -> list[tuple[Source, str]]:
    """Parse the elements that nft lists, each with its remaining time as nft prints it. HostError: unknown format."""
    try:
        return [(ban_network(parse_address(address)), expires) for address, expires in _ELEMENT.findall(text)]
    except ValueError as error:
        raise HostError(
            "unknown-element", f"nft lists an unknown element ({error}); install nftables 1.0.6 or newer"
        ) from None


def _key(ban: Source) -> str:
    return source_text(ban.network_address if isinstance(ban, IPv6Network) else ban)
