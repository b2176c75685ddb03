"""pcapng (draft-ietf-opsawg-pcapng): sections of blocks; interfaces are described before their packets.

Each block stands between two copies of its length. Blocks that say nothing about packets are passed over.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from doorward.capture.stream import Frame, Stream, frame_size, moment_ns, words
from doorward.errors import MalformedError

SECTION = b"\n\r\r\n"  # the same in both byte orders
_BYTE_ORDERS = {b"\x1a\x2b\x3c\x4d": ">", b"\x4d\x3c\x2b\x1a": "<"}
_SECTION, _INTERFACE, _OLD_PACKET, _SIMPLE_PACKET, _PACKET = 0x0A0D0D0A, 1, 2, 3, 6
_SMALLEST, _SECTION_SMALLEST = 12, 28
MAX_BLOCK_BYTES = 1 << 24  # Wireshark's limit
MAX_INTERFACES = 4096
_NAME, _RESOLUTION, _OFFSET = 2, 9, 14  # options: if_name, if_tsresol, if_tsoffset
_MAX_NAME_BYTES = 64
_MICROSECONDS = 6
_A_SECOND_NS = 1_000_000_000


class _Interface(NamedTuple):
    link: int
    kept: int  # the most bytes of a packet, 0 for all
    name: str
    units_per_s: int
    offset_s: int


@dataclass(slots=True)
class _Section:
    """What holds until the next section: the byte order, the interfaces, and when the last packet came."""

    order: str
    interfaces: list[_Interface] = field(default_factory=list)
    last_ns: int = 0


def frames(stream: Stream) -> Iterator[Frame]:
    """Give the frames of a file whose first four bytes were read, and are `SECTION`."""
    kind, section = SECTION, _Section("<")
    while kind:
        at = stream.at - len(kind)
        if kind == SECTION:
            section = _section(stream, at)
        elif (frame := _block(stream, at, section, kind)) is not None:
            section.last_ns = frame.at_ns
            yield frame
        kind = stream.read_or_end(4, "a block's header")


def _section(stream: Stream, at: int) -> _Section:
    length, magic = stream.read(4, "a section header"), stream.read(4, "a section header")
    order = _BYTE_ORDERS.get(magic)
    if order is None:
        raise MalformedError(f"byte {at + 8:,}: a section without a byte order (it has {magic.hex()})")
    size = words(order, "I").unpack(length)[0]
    if size < _SECTION_SMALLEST:
        raise MalformedError(f"byte {at + 4:,}: a section header of {size} bytes, it needs {_SECTION_SMALLEST}")
    body = _body(stream, at, order, size, 12, "a section header")
    major, minor = words(order, "HH").unpack_from(body)
    if major != 1:
        raise MalformedError(f"byte {at + 12:,}: pcapng of version {major}.{minor}; doorward reads version 1")
    return _Section(order)


def _block(stream: Stream, at: int, section: _Section, kind: bytes) -> Frame | None:
    order = section.order
    number = words(order, "I").unpack(kind)[0]
    size = words(order, "I").unpack(stream.read(4, "a block's header"))[0]
    body = _body(stream, at, order, size, 8, "a block")
    if number == _INTERFACE:
        if len(section.interfaces) == MAX_INTERFACES:
            raise MalformedError(f"byte {at:,}: more than {MAX_INTERFACES:,} interfaces")
        section.interfaces.append(_interface(body, at, order))
    elif number in (_PACKET, _OLD_PACKET):
        return _packet(body, at, section, "I" if number == _PACKET else "Hxx")
    elif number == _SIMPLE_PACKET:
        return _simple_packet(body, at, section)
    return None


def _body(stream: Stream, at: int, order: str, size: int, begun: int, what: str) -> bytes:
    """Read a block of which `begun` bytes were read; both its lengths must be the same."""
    if size < _SMALLEST or size % 4 or size > MAX_BLOCK_BYTES:
        raise MalformedError(
            f"byte {at + 4:,}: {what} of {size:,} bytes; it must be a multiple of 4 from {_SMALLEST}"
            f" to {MAX_BLOCK_BYTES:,}"
        )
    body = stream.read(size - begun - 4, what)
    again = words(order, "I").unpack(stream.read(4, what))[0]
    if again != size:
        raise MalformedError(f"byte {stream.at - 4:,}: {what} begins with the length {size} and ends with {again}")
    return body


def _interface(body: bytes, at: int, order: str) -> _Interface:
    head = words(order, "HxxI")
    if len(body) < head.size:
        raise MalformedError(f"byte {at:,}: an interface of {len(body)} bytes, it needs {head.size}")
    link, kept = head.unpack_from(body)
    options = _options(body[head.size :], at, order)
    name = options.get(_NAME, b"")[:_MAX_NAME_BYTES].decode(errors="replace").rstrip("\0")
    resolution = options.get(_RESOLUTION, b"")[:1] or bytes([_MICROSECONDS])
    units = (2 if resolution[0] & 0x80 else 10) ** (resolution[0] & 0x7F)
    offset = options.get(_OFFSET, b"")
    offset_s = words(order, "q").unpack(offset)[0] if len(offset) == 8 else 0
    return _Interface(link, kept, name, units, offset_s)


def _options(raw: bytes, at: int, order: str) -> dict[int, bytes]:
    """Read options up to their end; the first of a kind counts."""
    head, found, place = words(order, "HH"), dict[int, bytes](), 0
    while len(raw) - place >= head.size:
        kind, size = head.unpack_from(raw, place)
        if kind == 0:
            break
        place += head.size
        if size > len(raw) - place:
            raise MalformedError(f"byte {at:,}: an option of {size} bytes, where {len(raw) - place} are left")
        found.setdefault(kind, raw[place : place + size])
        place += (size + 3) // 4 * 4
    return found


def _packet(body: bytes, at: int, section: _Section, interface_field: str) -> Frame:
    head = words(section.order, interface_field + "IIII")
    if len(body) < head.size:
        raise MalformedError(f"byte {at:,}: a packet block of {len(body)} bytes, it needs {head.size}")
    number, high, low, kept, length = head.unpack_from(body)
    interface = _described(section, number, at)
    if frame_size(kept, at) > len(body) - head.size:
        raise MalformedError(f"byte {at:,}: a packet of {kept} bytes in a block with room for {len(body) - head.size}")
    seconds, rest = divmod(high << 32 | low, interface.units_per_s)
    at_ns = moment_ns(seconds + interface.offset_s, rest * _A_SECOND_NS // interface.units_per_s, at)
    return Frame(at_ns, interface.link, body[head.size : head.size + kept], length, interface.name)


def _simple_packet(body: bytes, at: int, section: _Section) -> Frame:
    """Read a packet without a time: it has that of the packet before."""
    if len(body) < 4:
        raise MalformedError(f"byte {at:,}: a simple packet block of {len(body)} bytes, it needs 4")
    length = words(section.order, "I").unpack_from(body)[0]
    interface = _described(section, 0, at)
    kept = frame_size(min(length, interface.kept or length, len(body) - 4), at)
    return Frame(section.last_ns, interface.link, body[4 : 4 + kept], length, interface.name)


def _described(section: _Section, number: int, at: int) -> _Interface:
    if number >= len(section.interfaces):
        raise MalformedError(f"byte {at:,}: a packet of interface {number}, which no block before describes")
    return section.interfaces[number]
