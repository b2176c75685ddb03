"""Parse what a signed knock may request, as written on the command line and in hosts.toml. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from doorward.config.duration import parse_duration_ms
from doorward.errors import InvalidValueError
from doorward.model import NAME, Port, Source, as_signed_ports, parse_source
from doorward.signed.message import pack_source

_AUTO = "auto"
LONGEST_FOR_S = (1 << 32) - 1  # the message's 32-bit field


class AutomaticAddress(NamedTuple):
    """Requests the source address of this host's route to the server, of either IP version."""

    version: None = None


def parse_for_s(text: str) -> int:
    """Parse the opening time, in whole seconds. ValueError describes the fault."""
    seconds, remainder = divmod(parse_duration_ms(text), 1000)
    if remainder:
        raise InvalidValueError(
            "not-whole-seconds", f'{text!r} is not a whole number of seconds; write e.g. "{seconds + 1}s"'
        )
    if seconds > LONGEST_FOR_S:
        raise InvalidValueError(
            "duration-too-long", f"{text!r} is longer than a knock can request; write a shorter time"
        )
    return seconds


def parse_from(text: str) -> Source | AutomaticAddress:
    """Parse the address or network to open for, or `auto`. ValueError describes the fault."""
    if text == _AUTO:
        return AutomaticAddress()
    try:
        source = parse_source(text)
        pack_source(source)  # ValueError: a message has no form for it
    except ValueError:
        raise InvalidValueError(
            "invalid-address", f'invalid address {text!r}; write e.g. "192.0.2.7", "192.0.2.0/24" or "{_AUTO}"'
        ) from None
    return source


def parse_gate(text: str) -> str:
    """Parse a gate's name. ValueError describes the fault."""
    if NAME.fullmatch(text) or text.startswith("SHA256:"):
        return text
    raise InvalidValueError("invalid-gate-name", f"invalid gate name {text!r}; use at most 64 letters, digits, - and _")


def parse_signed_ports(text: str) -> tuple[Port, ...]:
    """Parse the ports for signed knocks: `62201/udp,443/udp`, or their numbers. ValueError describes the fault."""
    return as_signed_ports([Port.parse(f"{word}/udp" if word.isdecimal() else word) for word in text.split(",")])


PARSERS: dict[str, Callable[[str], object]] = {  # by the field of KnownHost
    "signed_ports": parse_signed_ports,
    "gate": parse_gate,
    "asked": parse_from,
    "for_s": parse_for_s,
}
