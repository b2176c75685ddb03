"""Address pattern lists, as in sshd's `from=` but without host names. Pure."""

from __future__ import annotations

import fnmatch
import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import NamedTuple

from doorward.config.diagnostics import shown
from doorward.model import Place

Network = IPv4Network | IPv6Network
Pattern = Network | re.Pattern[str]  # a regular expression matches the address's text

_WITH_WILDCARDS = re.compile(r"(?=.*[*?])[0-9A-Fa-f:.*?]{1,64}")
_PLAIN = re.compile(r"[0-9A-Fa-f:.]+(/[0-9]{1,3})?")  # no netmasks, as in OpenSSH


class AddressPatterns(NamedTuple):
    """Included addresses minus excluded ones, in any order."""

    meant: tuple[Pattern, ...]
    excepted: tuple[Pattern, ...] = ()

    def matches(self, place: Place) -> bool:
        """Return whether an address or a whole network is included, and no part of it excluded."""
        if isinstance(place, IPv4Address | IPv6Address):
            text = str(place)
            return any(_fits(place, text, each) for each in self.meant) and not any(
                _fits(place, text, each) for each in self.excepted
            )
        return any(_lies_in(place, each) for each in self.meant) and not any(
            _touches(place, each) for each in self.excepted
        )


def parse(text: str, *, wildcards: bool, exceptions: bool = True) -> AddressPatterns:
    """Parse `203.0.113.0/24,!203.0.113.9,2001:db8:*`; ValueError describes the fault."""
    if "!" in text and not exceptions:
        raise ValueError(f"{shown(text)} has an exception; write only what is meant")
    items = [(not item.startswith("!"), item.removeprefix("!")) for item in text.split(",")]
    patterns = [(is_meant, _pattern(item, wildcards=wildcards)) for is_meant, item in items]
    meant = tuple(pattern for is_meant, pattern in patterns if is_meant)
    if not meant:
        example = "*" if wildcards else "0.0.0.0/0"
        raise ValueError(f"{shown(text)} only excepts, so nothing is meant; write what is, like {example},{text[:60]}")
    return AddressPatterns(meant, tuple(pattern for is_meant, pattern in patterns if not is_meant))


def _pattern(text: str, *, wildcards: bool) -> Pattern:
    if _WITH_WILDCARDS.fullmatch(text):
        if not wildcards:
            raise ValueError(f"{shown(text)} has a wildcard; write a prefix, like 203.0.113.0/24 or ::/0")
        return re.compile(fnmatch.translate(text.lower()))
    if text != text.strip():
        raise ValueError(f"{shown(text)} has a blank; write the list without any")
    if not text:
        raise ValueError("nothing stands between two commas; write addresses, like 203.0.113.0/24,2001:db8::7")
    if not _PLAIN.fullmatch(text):
        raise ValueError(f"{shown(text)} is no address, and names are not looked up; write addresses or prefixes")
    return _network(text)


def _network(text: str) -> Network:
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{shown(text)} is no address; write one like 203.0.113.0/24 or 2001:db8::7") from None
    if "/" in text and network.network_address != ip_network(text.partition("/")[0]).network_address:
        raise ValueError(f"{shown(text)} has bits behind its prefix; write {network}")
    return network


def _fits(address: IPv4Address | IPv6Address, text: str, pattern: Pattern) -> bool:
    return pattern.match(text) is not None if isinstance(pattern, re.Pattern) else address in pattern


def _lies_in(place: Network, pattern: Pattern) -> bool:
    if isinstance(place, IPv4Network):
        return isinstance(pattern, IPv4Network) and place.subnet_of(pattern)
    return isinstance(pattern, IPv6Network) and place.subnet_of(pattern)


def _touches(place: Network, pattern: Pattern) -> bool:
    # Whether a network contains an address that matches wildcards is expensive to decide: such networks are rejected.
    return isinstance(pattern, re.Pattern) or (place.version == pattern.version and place.overlaps(pattern))
