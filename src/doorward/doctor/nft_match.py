"""What the expressions of nft's JSON (libnftables-json(5)) are for an imagined packet, where they are understood."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from ipaddress import ip_address, ip_network
from typing import Any

from doorward.doctor.walk import Probe, Test
from doorward.model import TCP_FLAGS, Address

Sets = Mapping[str, list[Any]]  # the elements of named sets
_OPERATIONS: dict[str, Callable[[int, int], bool]] = {
    "<": lambda a, b: a < b,
    ">": lambda a, b: a > b,
    "<=": lambda a, b: a <= b,
    ">=": lambda a, b: a >= b,
}
_ARITHMETIC: dict[str, Callable[[int, int], int]] = {
    "&": lambda a, b: a & b,
    "|": lambda a, b: a | b,
    "^": lambda a, b: a ^ b,
    "<<": lambda a, b: a << b & 0xFFFF_FFFF,
    ">>": lambda a, b: a >> b,
}
_STATES = {"invalid": 1, "established": 2, "related": 4, "new": 8, "untracked": 64}


class _Nothing:
    """The packet has no such field: no comparison with it holds, not even `!=`."""


class _Unknown:
    """Nobody can tell."""


class _Stranger:
    """The address of somebody, in no range that a rule names."""


NOTHING, UNKNOWN, STRANGER = _Nothing(), _Unknown(), _Stranger()


def match_test(match: Mapping[str, Any], sets: Sets) -> Test:
    """Turn a match statement into a test."""
    left, operation, right = match["left"], match.get("op", "=="), match["right"]

    return lambda probe: _told(left, operation, right, sets, probe)


def _told(left: Any, operation: str, right: Any, sets: Sets, probe: Probe) -> bool | None:
    try:
        return holds(value_of(left, probe), operation, right, sets)
    except (
        AttributeError,
        KeyError,
        TypeError,
        ValueError,
    ):  # JSON of another version than libnftables-json(5) describes
        return None


def element_test(key: Any, element: Any, sets: Sets) -> Test:
    """Turn one key of a verdict map into a test."""
    return lambda probe: _told(key, "==", element, sets, probe)


def mark_change(expression: Any) -> Callable[[Probe], int | None]:
    """Turn what a mark is set to into a function; it gives None where nobody can tell."""

    def change(probe: Probe) -> int | None:
        try:
            return number_of(expression, probe)
        except (AttributeError, KeyError, TypeError, ValueError):
            return None

    return change


def holds(value: object, operation: str, right: Any, sets: Sets) -> bool | None:
    """Compare what the packet has with what the rule wants."""
    if isinstance(value, _Nothing):
        return False
    if operation in _OPERATIONS:
        numbers = [item for item in _synonyms(value) if isinstance(item, int)]
        return _OPERATIONS[operation](numbers[0], right) if numbers and isinstance(right, int) else None
    if operation != "in" and isinstance(value, int) and isinstance(right, list):  # flags, all of them
        right = number_of(right, None)
    result = _is_in(value, right, sets)
    if operation == "!=":
        return None if result is None else not result
    if operation not in ("==", "in"):
        return None
    if operation == "in" and isinstance(value, int) and (wanted := number_of(right, None)) is not None:
        return bool(value & wanted)  # any of these bits
    return result


def _synonyms(value: object) -> tuple[object, ...]:
    return value if isinstance(value, tuple) else (value,)


def _is_in(value: object, right: Any, sets: Sets) -> bool | None:
    if isinstance(value, _Unknown):
        return None
    if isinstance(right, str) and right.startswith("@"):
        return _any(value, sets[right[1:]], sets) if right[1:] in sets else None
    if isinstance(right, list):
        return _any(value, right, sets)
    if isinstance(right, dict):
        return _is_in_written(value, right, sets)
    if isinstance(value, list):
        return None
    if isinstance(value, _Stranger):
        return False
    return any(_is_same(item, right) for item in _synonyms(value))


def _is_in_written(value: object, right: Mapping[str, Any], sets: Sets) -> bool | None:
    (kind, inner), *_ = right.items()
    if kind == "set":
        return _any(value, inner if isinstance(inner, list) else [inner], sets)
    if kind == "elem":
        return _is_in(value, inner["val"], sets)
    if kind == "concat" and isinstance(value, list):
        parts = [_is_in(part, wanted, sets) for part, wanted in zip(value, inner, strict=False)]
        return False if False in parts else None if None in parts else True
    if kind == "prefix":
        network = ip_network(f"{inner['addr']}/{inner['len']}", strict=False)
        if isinstance(value, _Stranger):
            return network.prefixlen == 0
        return any(not isinstance(a, (int, str)) and a in network for a in _synonyms(value))
    if kind == "range":
        return _is_between(value, *inner)
    wanted = number_of(right, None)
    return None if wanted is None else wanted in _synonyms(value)


def _is_between(value: object, low: Any, high: Any) -> bool | None:
    if isinstance(value, _Stranger):
        return False
    for item in _synonyms(value):
        if isinstance(item, int) and isinstance(low, int) and isinstance(high, int):
            return low <= item <= high
        if not isinstance(item, (int, str)) and isinstance(low, str):
            first, last = ip_address(low), ip_address(high)
            address: Any = item
            return address.version == first.version and int(first) <= int(address) <= int(last)
    return None


def _any(value: object, wanted: list[Any], sets: Sets) -> bool | None:
    results = [_is_in(value, one, sets) for one in wanted]
    return True if True in results else None if None in results else False


def _is_same(item: object, right: Any) -> bool:
    if isinstance(item, (int, bool)) or not isinstance(right, str):
        return item == (number_of(right, None) if isinstance(right, str) else right)
    if isinstance(item, str):
        return item == right or (right.endswith("*") and item.startswith(right[:-1]))
    return str(item) == right


def value_of(expression: Any, probe: Probe) -> object:
    """Give what the packet has: a value, several names for it (a tuple), the parts of a key (a list), or a marker."""
    if not isinstance(expression, dict):
        return UNKNOWN
    (kind, inner), *_ = expression.items()
    if kind == "payload":
        return _field(inner["protocol"], inner["field"], probe) if "protocol" in inner else UNKNOWN
    if kind == "meta":
        return _meta(inner["key"], probe)
    if kind == "ct":
        return _conntrack(inner["key"], probe)
    if kind in ("exthdr", "tunnel", "sctp chunk"):
        return NOTHING  # a plain packet
    if kind == "fib":
        return _route(inner, probe)
    if kind == "concat":
        return [value_of(part, probe) for part in inner]
    number = number_of(expression, probe)
    return UNKNOWN if number is None else number


def _field(protocol: str, field: str, probe: Probe) -> object:
    if protocol in ("ip", "ip6"):
        if (protocol == "ip") != (probe.version == 4):
            return NOTHING
        return {
            "saddr": STRANGER if probe.source is None else probe.source,
            "daddr": probe.destination,
            "protocol": _protocol(probe),
            "nexthdr": _protocol(probe),
            "version": probe.version,
        }.get(field, UNKNOWN)
    if protocol not in ("th", probe.port.protocol.name.lower()):
        return NOTHING if protocol in ("tcp", "udp", "icmp", "icmpv6", "sctp", "dccp", "esp", "ah", "igmp") else UNKNOWN
    if field == "flags":
        return TCP_FLAGS["syn" if probe.state == "new" else "ack"]
    return probe.port.number if field == "dport" else UNKNOWN


def _protocol(probe: Probe) -> tuple[object, ...]:
    return (probe.port.protocol.name.lower(), int(probe.port.protocol))


def _meta(key: str, probe: Probe) -> object:
    four = probe.version == 4
    known: dict[str, object] = {
        "iifname": probe.iif,
        "iif": probe.iif,
        "oifname": UNKNOWN if probe.oif is None else probe.oif,
        "oif": UNKNOWN if probe.oif is None else probe.oif,
        "l4proto": _protocol(probe),
        "nfproto": ("ipv4", 2) if four else ("ipv6", 10),
        "protocol": ("ip", 0x800) if four else ("ip6", 0x86DD),
        "mark": UNKNOWN if probe.mark is None else probe.mark,
        "pkttype": ("host", "unicast", 0),
    }
    return known.get(key, UNKNOWN)


def _conntrack(key: str, probe: Probe) -> object:
    if key == "state":
        return (probe.state, _STATES[probe.state])
    if key == "mark":
        return 0 if probe.state == "new" else UNKNOWN
    if key == "direction":
        return ("original", 0)
    if key == "status":
        return UNKNOWN if probe.translated_from is None else ("dnat", 0x20)
    return UNKNOWN


def _route(fib: Mapping[str, Any], probe: Probe) -> object:
    flags = fib.get("flags", [])
    if fib.get("result") == "type" and "daddr" in flags:
        return ("local", 2) if probe.is_local else ("unicast", 1)
    if fib.get("result") in ("oif", "check", "oifname") and "saddr" in flags:
        return True  # there is a way back to the sender
    return UNKNOWN


def number_of(expression: Any, probe: Probe | None) -> int | None:
    """Compute with marks and flags; None where a part is not known."""
    if isinstance(expression, bool):
        return None
    if isinstance(expression, int):
        return expression
    if isinstance(expression, str):
        return TCP_FLAGS.get("ece" if expression == "ecn" else expression)
    if isinstance(expression, list):
        bits = [number_of(part, probe) for part in expression]
        return None if None in bits else sum({bit for bit in bits if bit is not None})
    if not isinstance(expression, dict):
        return None
    (kind, inner), *_ = expression.items()
    if kind in _ARITHMETIC:
        operands = [number_of(part, probe) for part in inner]
        result, *others = operands
        for operand in others:
            result = None if result is None or operand is None else _ARITHMETIC[kind](result, operand)
        return result
    value = value_of(expression, probe) if probe is not None and kind in ("meta", "ct", "payload") else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def address_of(written: Any) -> Address | None:
    """Read an address of a NAT statement; None for anything but one plain address."""
    try:
        return ip_address(written) if isinstance(written, str) else None
    except ValueError:
        return None
