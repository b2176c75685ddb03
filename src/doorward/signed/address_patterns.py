"""Address pattern lists, as in sshd's `from=` but without host names. Pure."""

from __future__ import annotations

import fnmatch
import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import NamedTuple

from doorward.config.diagnostics import shown
from doorward.errors import InvalidValueError
from doorward.model import Source

Network = IPv4Network | IPv6Network
Pattern = Network | re.Pattern[str]  # a regular expression matches the address's text

_WITH_WILDCARDS = re.compile(r"(?=.*[*?])[0-9A-Fa-f:.*?]{1,64}")
_PLAIN = re.compile(r"[0-9A-Fa-f:.]+(/[0-9]{1,3})?")  # no netmasks, as in OpenSSH


class AddressPatterns(NamedTuple):
    """Included addresses minus excluded ones, in any order."""

    included: tuple[Pattern, ...]
    excluded: tuple[Pattern, ...] = ()

    def matches(self, target: Source) -> bool:
        """Return whether an address or a whole network is included, and no part of it excluded."""
        if isinstance(target, IPv4Address | IPv6Address):
            text = str(target)
            return any(_matches(target, text, pattern) for pattern in self.included) and not any(
                _matches(target, text, pattern) for pattern in self.excluded
            )
        return any(_contains(target, pattern) for pattern in self.included) and not any(
            _overlaps(target, pattern) for pattern in self.excluded
        )


def parse(text: str, *, wildcards: bool, exceptions: bool = True) -> AddressPatterns:
    """Parse `203.0.113.0/24,!203.0.113.9,2001:db8:*`; ValueError describes the fault."""
    if "!" in text and not exceptions:
        raise InvalidValueError(
            "exclusion", f"{shown(text)} has an exclusion, which is not allowed here; list only included addresses"
        )
    items = [(not item.startswith("!"), item.removeprefix("!")) for item in text.split(",")]
    patterns = [(is_included, _pattern(item, wildcards=wildcards)) for is_included, item in items]
    included = tuple(pattern for is_included, pattern in patterns if is_included)
    if not included:
        example = "*" if wildcards else "0.0.0.0/0"
        raise InvalidValueError(
            "only-exclusions", f"{shown(text)} only excludes addresses; include some, e.g. {example},{text[:60]}"
        )
    return AddressPatterns(included, tuple(pattern for is_included, pattern in patterns if not is_included))


def _pattern(text: str, *, wildcards: bool) -> Pattern:
    if _WITH_WILDCARDS.fullmatch(text):
        if not wildcards:
            raise InvalidValueError(
                "wildcard", f"{shown(text)} has a wildcard; write a prefix, e.g. 203.0.113.0/24 or ::/0"
            )
        return re.compile(fnmatch.translate(text.lower()))
    if text != text.strip():
        raise InvalidValueError("contains-space", f"{shown(text)} contains a space; write the list without spaces")
    if not text:
        raise InvalidValueError(
            "empty-item", "empty item in the list; write addresses, e.g. 203.0.113.0/24,2001:db8::7"
        )
    if not _PLAIN.fullmatch(text):
        raise InvalidValueError(
            "invalid-address",
            f"invalid address {shown(text)} (host names are not allowed); write addresses or prefixes",
        )
    return _network(text)


def _network(text: str) -> Network:
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        raise InvalidValueError(
            "invalid-address", f"invalid address {shown(text)}; write e.g. 203.0.113.0/24 or 2001:db8::7"
        ) from None
    if "/" in text and network.network_address != ip_network(text.partition("/")[0]).network_address:
        raise InvalidValueError("host-bits", f"{shown(text)} has host bits set; write {network}")
    return network


def _matches(address: IPv4Address | IPv6Address, text: str, pattern: Pattern) -> bool:
    return pattern.match(text) is not None if isinstance(pattern, re.Pattern) else address in pattern


def _contains(target: Network, pattern: Pattern) -> bool:
    if isinstance(target, IPv4Network):
        return isinstance(pattern, IPv4Network) and target.subnet_of(pattern)
    return isinstance(pattern, IPv6Network) and target.subnet_of(pattern)


def _overlaps(target: Network, pattern: Pattern) -> bool:
    # Whether a network contains an address that matches wildcards is expensive to decide: such networks are rejected.
    return isinstance(pattern, re.Pattern) or (target.version == pattern.version and target.overlaps(pattern))
