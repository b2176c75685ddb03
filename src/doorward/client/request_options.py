"""What a signed knock may ask for, as people write it, on the command line and in hosts.toml. Pure."""

from __future__ import annotations

from typing import NamedTuple

from doorward.config.duration import parse_duration_ms
from doorward.model import NAME, Place, Port, Protocol, parse_place

_AUTO = "auto"
LONGEST_FOR_S = (1 << 32) - 1  # as the message writes it


class AutomaticAddress(NamedTuple):
    """In place of an address: the one that this machine's own route to the server begins with, of either version."""

    version: None = None


def parse_for_s(text: str) -> int:
    """Read how long a door is to stay open, in whole seconds. ValueError says what is wrong."""
    seconds, rest = divmod(parse_duration_ms(text), 1000)
    if rest:
        raise ValueError(f'{text!r} is no whole number of seconds; write one like "{seconds + 1}s"')
    if seconds > LONGEST_FOR_S:
        raise ValueError(f"{text!r} is longer than a knock can ask for; write a shorter time")
    return seconds


def parse_from(text: str) -> Place | AutomaticAddress:
    """Read the address or network that a door is to open for, or `auto`. ValueError says what is wrong."""
    if text == _AUTO:
        return AutomaticAddress()
    try:
        return parse_place(text)
    except ValueError:
        raise ValueError(f'{text!r} is no address; write one like "192.0.2.7", "192.0.2.0/24" or "{_AUTO}"') from None


def parse_gate(text: str) -> str:
    """Read a gate's name. ValueError says what is wrong."""
    if NAME.fullmatch(text) or text.startswith("SHA256:"):
        return text
    raise ValueError(f"{text!r} is no gate's name; write letters, digits, - and _, at most 64")


def parse_signed_port(text: str) -> Port:
    """Read the port that takes signed knocks: `62201/udp`, or its number. ValueError says what is wrong."""
    port = Port.parse(f"{text}/udp" if text.isdecimal() else text)
    if port.protocol is not Protocol.UDP:
        raise ValueError(f"{port} takes no signed knocks, which are UDP; write {port.number}/udp")
    return port
