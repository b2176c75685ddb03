"""`doorward://` links: everything a client needs to know about a host, in one line that fits a QR code. Pure.

    doorward://HOST[:SIGNED_PORT]/?key=SERVER_KEY&ports=443,53&gate=NAME&confirm=yes&door=NAME&seq=NAME:7000/tcp,8000/udp

`ports` are tried after SIGNED_PORT. `confirm`: the gate confirms signed knocks. `door` (opens with a signed knock)
and `seq` (opens with a port sequence) may be repeated. Every value is percent-encoded (RFC 3986); a plus is a literal
plus.
"""

from __future__ import annotations

import re
from ipaddress import IPv6Address
from typing import NamedTuple
from urllib.parse import quote, unquote_to_bytes

from doorward.errors import InvalidValueError, MalformedError
from doorward.model import DEFAULT_SIGNED_PORT, NAME, Port, as_signed_ports

SCHEME = "doorward://"
MAX_LENGTH = 8192  # characters; the longest server key takes a quarter of them
MAX_DOORS = 64
MAX_SEQUENCE = 32
_LINK = re.compile(r"doorward://([^/?#]+)/?\?([^#]*)", re.IGNORECASE)
_HOST_PORT = re.compile(r"(\[[^]]*\]|[^\[\]:@]+)(?::([0-9]{1,5}))?")
_BAD_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_HOST = re.compile(r"[^\s\x00-\x20\x7f/?#@:\[\]%\"'\\]{1,253}")
_PORTS = re.compile(r"[0-9]{1,5}(?:,[0-9]{1,5})*")
_SERVER_KEY = re.compile(r"[a-z0-9-]{1,32}:[A-Za-z0-9+/]{16,4096}={0,2}")


class KnockLink(NamedTuple):
    """The contents of a link; a door without a sequence opens with a signed knock.

    `signed_ports` is empty for the default.
    """

    host: str
    signed_ports: tuple[Port, ...] = ()
    key: str | None = None
    gate: str | None = None
    doors: tuple[tuple[str, tuple[Port, ...]], ...] = ()
    confirm: bool = False


def format_link(link: KnockLink) -> str:
    """Return the link as text; the inverse of `parse_link`."""
    host = f"[{link.host}]" if ":" in link.host else quote(link.host, safe="")
    numbers = [str(port.number) for port in link.signed_ports]
    port = f":{numbers[0]}" if numbers else ""
    fields = [("key", link.key), ("ports", ",".join(numbers[1:]) or None), ("gate", link.gate)]
    fields.append(("confirm", "yes" if link.confirm else None))
    for name, sequence in link.doors:
        fields.append(("seq", f"{name}:{','.join(map(str, sequence))}") if sequence else ("door", name))
    query = "&".join(f"{name}={quote(value, safe=':/,=')}" for name, value in fields if value is not None)
    return f"{SCHEME}{host}{port}/?{query}"


def unless_default(ports: tuple[Port, ...]) -> tuple[Port, ...]:
    """Return the ports for signed knocks as a link has them: none if they are the default."""
    return () if ports == (DEFAULT_SIGNED_PORT,) else ports


def parse_link(text: str) -> KnockLink:
    """Parse a link. MalformedError describes the fault."""
    if len(text) > MAX_LENGTH:
        raise MalformedError("link-too-long", f"the link has {len(text)} characters; the limit is {MAX_LENGTH}")
    if not text.isascii():
        raise MalformedError("link-not-ascii", "the link contains non-ASCII characters; percent-encode them")
    match = _LINK.fullmatch(text.strip())
    if match is None:
        raise MalformedError("not-a-link", "not a doorward link; links begin with doorward://HOST/?key=")
    host, port = _host_port(match[1])
    values: dict[str, str] = {}
    doors: dict[str, tuple[Port, ...]] = {}
    for field in filter(None, match[2].split("&")):
        name, value = _field(field)
        if name in ("door", "seq"):
            _add_door(doors, name, value)
        elif name not in _VALUES:
            raise MalformedError(
                "unknown-field",
                f"unknown field {name[:40]!r} in the link; known fields: key, ports, gate, confirm, door, seq",
            )
        elif name in values:
            raise MalformedError("duplicate-field", f"{name} appears twice in the link")
        elif not _VALUES[name][1].fullmatch(value):
            raise MalformedError("invalid-field", f"invalid {_VALUES[name][0]} {_shown(value)} in the link")
        else:
            values[name] = value
    ports = _signed_ports(port, values.get("ports"))
    link = KnockLink(host, ports, values.get("key"), values.get("gate"), tuple(doors.items()), "confirm" in values)
    _reject_unusable(link)
    return link


_VALUES = {
    "key": ("server key", _SERVER_KEY),
    "ports": ("list of ports", _PORTS),
    "gate": ("gate name", NAME),
    "confirm": ("value of confirm", re.compile("yes")),
}


def _host_port(text: str) -> tuple[str, str | None]:
    match = _HOST_PORT.fullmatch(text)
    if match is None:
        raise MalformedError("invalid-host", f"invalid host or port {_shown(text)} in the link")
    host, port = match.groups()
    if host.startswith("["):
        try:
            return str(IPv6Address(host[1:-1])), port
        except ValueError:
            raise MalformedError("invalid-address", f"invalid IPv6 address {_shown(host)} in the link") from None
    host = _decoded(host)
    if not (_HOST.fullmatch(host) and host.isprintable()):
        raise MalformedError("invalid-host-name", f"invalid host name {_shown(host)} in the link")
    return host, port


def _signed_ports(first: str | None, others: str | None) -> tuple[Port, ...]:
    if first is None:
        if others is not None:
            raise MalformedError(
                "ports-without-port", "ports= follows the port after the host, which is missing in the link"
            )
        return ()
    numbers = [first, *(others.split(",") if others is not None else ())]
    try:
        return as_signed_ports([Port.parse(f"{number}/udp") for number in numbers])
    except InvalidValueError as error:
        raise MalformedError(error.code, str(error)) from None


def _field(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise MalformedError("missing-equals", f"{_shown(text)} has no = in the link")
    return name, _decoded(value)


def _decoded(text: str) -> str:
    if _BAD_PERCENT.search(text):
        raise MalformedError("invalid-percent-encoding", "invalid percent-encoding in the link")
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        raise MalformedError("link-not-utf8", "the link is not valid UTF-8") from None


def _add_door(doors: dict[str, tuple[Port, ...]], field: str, value: str) -> None:
    name, _, ports = value.partition(":") if field == "seq" else (value, "", "")
    if not NAME.fullmatch(name) or name.isdigit():
        raise MalformedError("invalid-door-name", f"invalid door name {_shown(name)} in the link")
    if name in doors:
        raise MalformedError("duplicate-door", f"door {name} appears twice in the link")
    if len(doors) == MAX_DOORS:
        raise MalformedError("too-many-doors", f"more than {MAX_DOORS} doors in the link")
    doors[name] = parse_sequence(ports) if field == "seq" else ()


def parse_sequence(text: str) -> tuple[Port, ...]:
    """Parse `7000/tcp,8000/udp`. MalformedError: not a sequence."""
    words = text.split(",")
    if len(words) > MAX_SEQUENCE:
        raise MalformedError("sequence-too-long", f"a sequence of {len(words)} ports; the limit is {MAX_SEQUENCE}")
    try:
        return tuple(map(Port.parse, words))
    except InvalidValueError as error:
        raise MalformedError(error.code, str(error)) from None


def _reject_unusable(link: KnockLink) -> None:
    if link.key is None and not any(sequence for _, sequence in link.doors):
        raise MalformedError(
            "nothing-to-knock", "the link has neither key= nor seq=, so there is nothing to knock with"
        )
    if link.key is None and not all(sequence for _, sequence in link.doors):
        raise MalformedError(
            "door-needs-key", "a door without a sequence needs the server's key; key= is missing in the link"
        )


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:40] + "…")
