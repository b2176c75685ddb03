"""Readers of single values in fwknop's access.conf; ValueError says `what is wrong; what instead`.

fwknopd reads numbers with C's atoi, and yes and no by the first letter: to it `tcp/22-25` is tcp/22 and `true` is no.
What it reads as it was meant is read here too; what it would take for something else is a fault.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from ipaddress import IPv4Network
from typing import NamedTuple

from doorward.config.readers import MAX_OPENS
from doorward.config.report import shown
from doorward.model import Port, Protocol

MAX_SECONDS = (1 << 31) - 1
ANYWHERE = "ANY"

_REMARK = r"\s*(?:#.*)?"  # fwknopd stops reading a number or an address at the blank before it
_PLACE = re.compile(r"([0-9.]{7,15})(?:/([0-9.]{1,15}))?" + _REMARK, re.ASCII | re.DOTALL)
_PORT = re.compile(r"(tcp|udp)/\s*([0-9]{1,9})" + _REMARK, re.ASCII | re.DOTALL | re.IGNORECASE)
_SECONDS = re.compile(r"([0-9]{1,12})\s*(?:s|secs?|seconds?)?" + _REMARK, re.ASCII | re.DOTALL | re.IGNORECASE)
_DATE = re.compile(r"([0-9]{1,2})/([0-9]{1,2})/([0-9]{2}|[0-9]{4})" + _REMARK, re.ASCII | re.DOTALL)
_NAT = re.compile(r"([0-9.]{7,15})\s+([0-9]{1,5})" + _REMARK, re.ASCII | re.DOTALL)
_YES_OR_NO = {"y": True, "yes": True, "n": False, "no": False}


class Place(NamedTuple):
    """An address and a port behind this host."""

    address: str
    port: int


def places(text: str) -> tuple[IPv4Network, ...]:
    """Read `192.0.2.7,203.0.113.0/24`; nothing at all means anywhere."""
    words = [word.strip() for word in text.split(",")]
    found = [_place(word) for word in words if word.upper() != ANYWHERE]
    return tuple(dict.fromkeys(found)) if len(found) == len(words) else ()


def _place(word: str) -> IPv4Network:
    match = _PLACE.fullmatch(word)
    try:
        if match is None:
            raise ValueError
        return IPv4Network((match[1], _prefix(match[2] or "32")), strict=False)
    except ValueError:
        remedy = "write addresses like 192.0.2.7 or 203.0.113.0/24 with commas between them, or ANY"
        raise ValueError(f"{shown(word)} is no IPv4 address to fwknopd; {remedy}") from None


def _prefix(text: str) -> int:
    """Read 24 or 255.255.255.0; other netmasks, with gaps, are no prefix."""
    if "." not in text:
        return int(text)
    mask = int(IPv4Network(text).network_address)
    length = mask.bit_count()
    if mask != (0xFFFF_FFFF << (32 - length)) & 0xFFFF_FFFF:
        raise ValueError
    return length


def ports(text: str) -> tuple[Port, ...]:
    """Read `tcp/22, udp/53`."""
    found = tuple(dict.fromkeys(port(word.strip()) for word in text.split(",")))
    if len(found) > MAX_OPENS:
        what = f"{len(found)} ports are too many for one door"
        raise ValueError(f"{what}; write two stanzas, each with at most {MAX_OPENS} of them")
    return found


def port(word: str) -> Port:
    """Read one port as fwknop writes it, the protocol first."""
    match = _PORT.fullmatch(word)
    if match is None:
        remedy = "write ports like tcp/22 with commas between them, each by itself"
        raise ValueError(f"{shown(word)} is no port, whatever fwknopd makes of it; {remedy}")
    if not 1 <= int(match[2]) <= 65535:
        raise ValueError(f"port {int(match[2])} does not exist; write a number from 1 to 65535")
    return Port(Protocol[match[1].upper()], int(match[2]))


def seconds(text: str) -> int | None:
    """Read a time; 0 means the default."""
    match = _SECONDS.fullmatch(text)
    if match is None:
        raise ValueError(f"{shown(text)} is no time; write a whole number of seconds, like 30")
    if int(match[1]) > MAX_SECONDS:
        raise ValueError(f"{int(match[1])} seconds are no possible time; write at most {MAX_SECONDS}")
    return int(match[1]) or None


def yes(text: str) -> bool:
    """Read Y or N."""
    word = text.partition("#")[0].strip().lower()
    if word not in _YES_OR_NO:
        means = "yes" if word.startswith("y") else "no"
        raise ValueError(f"{shown(text)} is neither Y nor N, and fwknopd takes it for {means}; write Y or N")
    return _YES_OR_NO[word]


def expiry(text: str) -> str:
    """Read MM/DD/YYYY, a day that begins on this host's clock, as authorized_keys writes it: YYYYMMDD."""
    match = _DATE.fullmatch(text)
    try:
        if match is None:
            raise ValueError
        month, day, year = map(int, match.groups())
        return date(year + 2000 if year < 100 else year, month, day).isoformat().replace("-", "")
    except ValueError:
        raise ValueError(f"{shown(text)} is no day; write it as MM/DD/YYYY, like 12/31/2030") from None


def expiry_epoch(text: str) -> str | None:
    """Read seconds since 1970, as authorized_keys writes a time; 0 means never."""
    match = _SECONDS.fullmatch(text)
    try:
        if match is None:
            raise ValueError
        return f"{datetime.fromtimestamp(int(match[1]), UTC):%Y%m%d%H%M%SZ}" if int(match[1]) else None
    except (ValueError, OverflowError, OSError):
        raise ValueError(f"{shown(text)} is no time; write seconds since 1970, like 1900000000") from None


def translation(text: str) -> Place:
    """Read the address and the port that connections are sent on to."""
    match = _NAT.fullmatch(text)
    try:
        if match is None or not 1 <= int(match[2]) <= 65535:
            raise ValueError
        return Place(str(IPv4Network(match[1]).network_address), int(match[2]))
    except ValueError:
        raise ValueError(f"{shown(text)} is no address and port; write both, like 192.0.2.7 22") from None


def words(text: str) -> tuple[str, ...]:
    """Read a list with commas."""
    return tuple(word.strip() for word in text.split(","))


def word(text: str) -> str:
    """Read a text as it is."""
    return text
