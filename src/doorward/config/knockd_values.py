"""Readers of single values in knockd.conf; ValueError says `what is wrong; what instead`.

knockd reads numbers with C's atoi: to it `7000 # office` is 7000 and `abc` is 0. What it reads as it was meant is
read here too; what it would take for another number is a fault.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address

from doorward.config.report import shown
from doorward.config.schema import MAX_SEQUENCE
from doorward.model import FlagFilter, Port, Protocol, parse_address

WHITESPACE = " \t\n\v\f\r"  # C's isspace; str.strip() alone would take a no-break space as well
FLAGS = ("fin", "syn", "rst", "psh", "ack", "urg")
MAX_SECONDS = (1 << 31) - 1  # beyond it knockd's int turns over
MAX_INTERFACE_BYTES = 15
EXAMPLE = "7000,8000:udp,9000"

_NUMBER = re.compile(r"\s*([0-9]{1,9})(?:/tcp)?\s*(?:#.*)?", re.ASCII | re.DOTALL)
_SECONDS = re.compile(r"([0-9]{1,12})\s*(?:s|secs?|seconds?)?\s*(?:#.*)?", re.ASCII | re.DOTALL | re.IGNORECASE)


def sequence(text: str) -> tuple[Port, ...]:
    """Read `7000,8000:udp,9000:tcp`; an ExceptionGroup holds a ValueError for each port that is none."""
    words = text.split(",")
    if not text:
        raise ValueError(f"the sequence is empty; write its ports, like {EXAMPLE}")
    if len(words) > MAX_SEQUENCE:
        raise ValueError(f"{len(words)} ports are too many; write at most {MAX_SEQUENCE}")
    ports: list[Port] = []
    faults: list[ValueError] = []
    for word in words:
        try:
            ports.append(port(word))
        except ValueError as error:
            faults.append(error)
    if faults:
        raise ExceptionGroup("ports", faults)
    return tuple(ports)


def port(word: str) -> Port:
    """Read one port of a sequence, tcp where it does not say udp."""
    number, *rest = word.split(":")
    protocol = rest[0].strip(WHITESPACE).upper() if rest else "TCP"
    name = shown(word.strip(WHITESPACE))
    if not word.strip(WHITESPACE):
        raise ValueError(f"a port is missing beside a comma, and knockd takes it for port 0; write {EXAMPLE}")
    if protocol not in Protocol.__members__ or len(rest) > 1:
        raise ValueError(f"{name} is no port; write it as 7000, 7000:tcp or 7000:udp")
    match = _NUMBER.fullmatch(number)
    if match is None:
        raise ValueError(f"{name} is no port, whatever number knockd makes of it; write it as 7000 or 7000:udp")
    if not 1 <= int(match[1]) <= 65535:
        raise ValueError(f"port {int(match[1])} does not exist; write a number from 1 to 65535")
    return Port(Protocol[protocol], int(match[1]))


def seconds(least: int) -> Callable[[str], int]:
    """Make a reader of whole seconds."""

    def read(text: str) -> int:
        match = _SECONDS.fullmatch(text)
        if match is None:
            raise ValueError(f"{shown(text)} is no time; write a whole number of seconds, like 15")
        number = int(match[1])
        if not least <= number <= MAX_SECONDS:
            raise ValueError(f"{number} seconds are no possible time; write a number from {least} to {MAX_SECONDS}")
        return number

    return read


def milliseconds(text: str) -> int:
    """Read the time for a sequence."""
    return 1000 * seconds(1)(text)


def flags(text: str) -> FlagFilter:
    """Read `syn,!ack`: the bits that are named are tested, and no others."""
    words = tuple(dict.fromkeys(text.lower().split(",")))
    for word in words:
        if word.removeprefix("!") not in FLAGS:
            remedy = f"write some of {', '.join(FLAGS)}, ! before one that must not be set, commas and no spaces"
            raise ValueError(f"{shown(word)} is no TCP flag to knockd; {remedy}")
    return FlagFilter.parse(words)


def target(text: str) -> IPv4Address | IPv6Address:
    """Read an address; knockd takes a host's name but then never finds it in a packet."""
    try:
        return parse_address(text)
    except ValueError:
        remedy = "write the address of the host itself, like 192.0.2.7"
        raise ValueError(f"{shown(text)} is no address; {remedy}") from None


def interface(text: str) -> str | None:
    """Read an interface's name, `any`, or nothing at all."""
    odd = any(letter.isspace() or letter in '/"' or letter < " " for letter in text)
    if odd or len(text.encode(errors="surrogatepass")) > MAX_INTERFACE_BYTES:
        raise ValueError(f"{shown(text)} is no interface; write its name alone as `ip link` shows it, like eth0")
    return text or None


def path(text: str) -> str:
    """Read the name of a file."""
    if not text:
        raise ValueError("no file is named; write its whole path, like /etc/knockd/sequences")
    return text


def path_or_none(text: str) -> str | None:
    """Read the name of a file; an empty one means none."""
    return text or None


def command(text: str) -> str:
    """Read a command; an empty one means that nothing is run."""
    return text
