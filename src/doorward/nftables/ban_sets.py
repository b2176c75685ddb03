"""Who is banned, as the gate's sets hold it: an IPv4 address, or the /64 that an IPv6 address is in. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, IPv6Address, IPv6Network

from doorward.config.duration import nft_duration
from doorward.errors import HostError
from doorward.model import Address, Place, parse_address, place_text

Bans = Mapping[Place, float]  # for how many seconds more
SIZE = 65536  # the sets'; the daemon keeps fewer
NAMES = ("banned4", "banned6")
_ELEMENT = re.compile(r"([0-9a-f.:]*[.:][0-9a-f.:]*) timeout \w+ expires ((?:[0-9]{1,15}(?:ms|[smhd]))+)")


def ban_network(address: Address) -> Place:
    """Give what is banned with an address: who has one of a /64 has them all."""
    return address if isinstance(address, IPv4Address) else IPv6Network((int(address) >> 64 << 64, 64))


def covers(ban: Place, place: Place) -> bool:
    """Tell whether a ban holds for all of an address or a network."""
    if isinstance(place, IPv4Address | IPv6Address):
        return ban_network(place) == ban
    return isinstance(ban, IPv6Network) and place.version == 6 and place.subnet_of(ban)


def put_attributes(table: str, bans: Bans) -> Iterable[str]:
    """Write bans, or new ends: kernels before 6.12 ignore a longer timeout for an entry that exists."""
    for ban, left_s in bans.items():
        where, key = f"{table} banned{ban.version}", _key(ban)
        timeout = f"timeout {nft_duration(max(1, round(left_s * 1000)))}"
        yield f"add element {where} {{ {key} {timeout} }}"
        yield f"delete element {where} {{ {key} }}"
        yield f"add element {where} {{ {key} {timeout} }}"


def read_ban(table: str, ban: Place) -> str:
    """Take one away, whether it is there or not."""
    where, key = f"{table} banned{ban.version}", _key(ban)
    return f"add element {where} {{ {key} timeout 1s }}\ndelete element {where} {{ {key} }}"


def read(text: str) -> list[tuple[Place, str]]:
    """Read the entries as nft lists them, each with the time that is left as nft writes it. HostError: one is none."""
    try:
        return [(ban_network(parse_address(address)), expires) for address, expires in _ELEMENT.findall(text)]
    except ValueError as error:
        raise HostError(f"nft lists what is no entry ({error}); install nftables 1.0.6 or newer") from None


def _key(ban: Place) -> str:
    return place_text(ban.network_address if isinstance(ban, IPv6Network) else ban)
