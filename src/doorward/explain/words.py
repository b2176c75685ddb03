"""How times, knocks, packets and addresses are said."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address

from doorward.capture.flow import Flow
from doorward.model import TCP_FLAGS, Door, Protocol

_NETWORK_BYTES = 8  # of IPv6: one client's addresses share their /64
_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def ordinal(number: int) -> str:
    """Say `third`, or `the 12th` where there is no short word."""
    return _ORDINALS[number - 1] if 1 <= number <= len(_ORDINALS) else f"{number}th"


def number_word(number: int) -> str:
    """Say `two`, or write a larger number."""
    return _NUMBERS[number] if 0 <= number < len(_NUMBERS) else f"{number:,}"


def counted(number: int, one: str, many: str = "") -> str:
    """Say `1 knock`, `2 knocks`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def span(seconds: float) -> str:
    """Say a length of time so that two that differ look different: `40 µs`, `0.4 ms`, `12 ms`, `6.2 s`, `2 min 5 s`."""
    seconds = max(0.0, seconds)
    if seconds < 0.0001:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 0.01:
        return f"{seconds * 1000:.1f} ms"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min" + (f" {rest} s" if rest else "")


def span_beyond(seconds: float, limit_s: float) -> str:
    """Say a time that is over a limit, exactly enough to be seen as over it."""
    rough = span(seconds)
    return rough if rough != span(limit_s) else f"{seconds:.3f} s"


def listed(words: Sequence[str]) -> str:
    """Say `a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1] if words else "")))


def address(packed: bytes) -> str:
    """Write an address."""
    return str(ip_address(packed))


def is_same_network(one: bytes, other: bytes) -> bool:
    """Tell whether two addresses are of one IPv6 network, and so, as a rule, one client's."""
    return len(one) == len(other) == 2 * _NETWORK_BYTES and one[:_NETWORK_BYTES] == other[:_NETWORK_BYTES]


def flags(bits: int) -> str:
    """Write TCP flags as `SYN+ECE`."""
    return "+".join(name.upper() for name, bit in TCP_FLAGS.items() if bits & bit) or "no flags"


def packet(flow: Flow) -> str:
    """Write a packet as `SYN 7000/tcp`."""
    if flow.port is None:
        names = {Protocol.TCP: "tcp", Protocol.UDP: "udp"}
        return f"protocol {names.get(flow.protocol, flow.protocol)}"  # type: ignore[call-overload]
    if flow.port.protocol is Protocol.UDP:
        return str(flow.port)
    return f"{flags(flow.packet.flags)} {flow.port}" if flow.packet else str(flow.port)


def knocks(door: Door) -> str:
    """Write a door's sequence."""
    return " ".join(map(str, door.knock))


def ports(door: Door) -> str:
    """Write what a door opens."""
    return listed([str(port) for port in door.opens])
