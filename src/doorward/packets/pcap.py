"""Reader for capture files of tcpdump and Wireshark, pcap and pcapng, frame by frame in bounded memory.

pcap (draft-ietf-opsawg-pcap): a file header defines byte order, time unit and link type; records follow.
pcapng (draft-ietf-opsawg-pcapng): sections of blocks, each with its length; an interface's block defines the link type.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from struct import Struct
from typing import BinaryIO, NamedTuple

from doorward.errors import MalformedError

# tcpdump's own limit (MAXIMUM_SNAPLEN); D-Bus and USB captures have longer frames, and no IP in them.
MAX_FRAME_BYTES = 1 << 18
MAX_TIME_S = 253_000_000_000  # in the year 9987: later times cannot be formatted


class CapturedFrame(NamedTuple):
    """One captured frame: time, link type, captured bytes, original length, and interface."""

    at_ns: int  # since the epoch
    link: int  # LINKTYPE_ of libpcap's registry
    data: bytes
    length: int  # on the wire
    interface: str = ""  # only in pcapng, and not always


class TruncatedError(Exception):
    """The stream ends inside a structure; the text names the offset and the structure."""


class Stream:
    """Reads exact numbers of bytes. `at` is the offset of the next one."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.at = 0

    def read(self, count: int, inside: str) -> bytes:
        """Return `count` bytes; TruncatedError if the stream ends before."""
        data = self.read_some(count)
        if len(data) < count:
            raise TruncatedError(f"the file ends at byte {self.at:,}, inside {inside}")
        return data

    def read_or_end(self, count: int, inside: str) -> bytes:
        """Return `count` bytes, or b"" at the end of the stream; TruncatedError if it ends in between."""
        data = self.read_some(count)
        if 0 < len(data) < count:
            raise TruncatedError(f"the file ends at byte {self.at:,}, inside {inside}")
        return data

    def read_some(self, count: int) -> bytes:
        """Return `count` bytes, or the rest of the stream."""
        data = self._file.read(count) if count else b""
        while 0 < len(data) < count and (more := self._file.read(count - len(data))):  # short reads from a pipe
            data += more
        self.at += len(data)
        return data


def time_ns(seconds: int, nanoseconds: int, at: int) -> int:
    """Return a time in ns since the epoch; MalformedError if it is out of range."""
    if not 0 <= seconds <= MAX_TIME_S:
        raise MalformedError("invalid-time", f"byte {at:,}: invalid packet time ({seconds} s since 1970)")
    return seconds * 1_000_000_000 + nanoseconds


def frame_size(size: int, at: int) -> int:
    """Return the size of a frame; MalformedError if it is too large."""
    if size > MAX_FRAME_BYTES:
        raise MalformedError(
            "invalid-packet-size", f"byte {at:,}: invalid packet size {size:,}: at most {MAX_FRAME_BYTES:,} bytes"
        )
    return size


SECTION = b"\n\r\r\n"  # the same in both byte orders
_BYTE_ORDERS = {b"\x1a\x2b\x3c\x4d": ">", b"\x4d\x3c\x2b\x1a": "<"}
_SECTION, _INTERFACE, _OLD_PACKET, _SIMPLE_PACKET, _PACKET = 0x0A0D0D0A, 1, 2, 3, 6
_SMALLEST, _SECTION_SMALLEST = 12, 28
MAX_BLOCK_BYTES = 1 << 24  # Wireshark's limit
MAX_INTERFACES = 4096
_NAME, _RESOLUTION, _OFFSET = 2, 9, 14  # options: if_name, if_tsresol, if_tsoffset
_MAX_NAME_BYTES = 64
_PCAPNG_MICROSECONDS = 6
_NS_PER_S = 1_000_000_000


class _Interface(NamedTuple):
    link: int
    kept: int  # snapshot length, 0: unlimited
    name: str
    units_per_s: int
    offset_s: int


@dataclass(slots=True)
class _Section:
    """The state of one section: byte order, interfaces, and the time of the last packet."""

    order: str
    interfaces: list[_Interface] = field(default_factory=list)
    last_ns: int = 0


def frames(stream: Stream) -> Iterator[CapturedFrame]:
    """Yield the frames of a file whose first four bytes were read, and are `SECTION`."""
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
        raise MalformedError("no-byte-order", f"byte {at + 8:,}: a section without a byte order (it has {magic.hex()})")
    size = Struct(order + "I").unpack(length)[0]
    if size < _SECTION_SMALLEST:
        raise MalformedError(
            "section-size", f"byte {at + 4:,}: a section header of {size} bytes, it needs {_SECTION_SMALLEST}"
        )
    body = _body(stream, at, order, size, 12, "a section header")
    major, minor = Struct(order + "HH").unpack_from(body)
    if major != 1:
        raise MalformedError(
            "unsupported-version", f"byte {at + 12:,}: pcapng of version {major}.{minor}; doorward reads version 1"
        )
    return _Section(order)


def _block(stream: Stream, at: int, section: _Section, kind: bytes) -> CapturedFrame | None:
    order = section.order
    number = Struct(order + "I").unpack(kind)[0]
    size = Struct(order + "I").unpack(stream.read(4, "a block's header"))[0]
    body = _body(stream, at, order, size, 8, "a block")
    if number == _INTERFACE:
        if len(section.interfaces) == MAX_INTERFACES:
            raise MalformedError("too-many-interfaces", f"byte {at:,}: more than {MAX_INTERFACES:,} interfaces")
        section.interfaces.append(_interface(body, at, order))
    elif number in (_PACKET, _OLD_PACKET):
        return _packet(body, at, section, "I" if number == _PACKET else "Hxx")
    elif number == _SIMPLE_PACKET:
        return _simple_packet(body, at, section)
    return None


def _body(stream: Stream, at: int, order: str, size: int, begun: int, what: str) -> bytes:
    """Read the rest of a block after `begun` bytes; both its lengths must be equal."""
    if size < _SMALLEST or size % 4 or size > MAX_BLOCK_BYTES:
        raise MalformedError(
            "block-size",
            f"byte {at + 4:,}: {what} of {size:,} bytes; it must be a multiple of 4 from {_SMALLEST}"
            f" to {MAX_BLOCK_BYTES:,}",
        )
    body = stream.read(size - begun - 4, what)
    again = Struct(order + "I").unpack(stream.read(4, what))[0]
    if again != size:
        raise MalformedError(
            "length-mismatch", f"byte {stream.at - 4:,}: {what} begins with the length {size} and ends with {again}"
        )
    return body


def _interface(body: bytes, at: int, order: str) -> _Interface:
    head = Struct(order + "HxxI")
    if len(body) < head.size:
        raise MalformedError(
            "interface-block-size", f"byte {at:,}: an interface of {len(body)} bytes, it needs {head.size}"
        )
    link, kept = head.unpack_from(body)
    options = _options(body[head.size :], at, order)
    name = options.get(_NAME, b"")[:_MAX_NAME_BYTES].decode(errors="replace").rstrip("\0")
    resolution = options.get(_RESOLUTION, b"")[:1] or bytes([_PCAPNG_MICROSECONDS])
    units = (2 if resolution[0] & 0x80 else 10) ** (resolution[0] & 0x7F)
    offset = options.get(_OFFSET, b"")
    offset_s = Struct(order + "q").unpack(offset)[0] if len(offset) == 8 else 0
    return _Interface(link, kept, name, units, offset_s)


def _options(raw: bytes, at: int, order: str) -> dict[int, bytes]:
    """Return options by type, the first one of each."""
    head, found, offset = Struct(order + "HH"), dict[int, bytes](), 0
    while len(raw) - offset >= head.size:
        kind, size = head.unpack_from(raw, offset)
        if kind == 0:
            break
        offset += head.size
        if size > len(raw) - offset:
            raise MalformedError(
                "option-size", f"byte {at:,}: an option of {size} bytes, where {len(raw) - offset} are left"
            )
        found.setdefault(kind, raw[offset : offset + size])
        offset += (size + 3) // 4 * 4
    return found


def _packet(body: bytes, at: int, section: _Section, interface_field: str) -> CapturedFrame:
    head = Struct(section.order + interface_field + "IIII")
    if len(body) < head.size:
        raise MalformedError(
            "packet-block-size", f"byte {at:,}: a packet block of {len(body)} bytes, it needs {head.size}"
        )
    number, high, low, kept, length = head.unpack_from(body)
    interface = _interface_for(section, number, at)
    if frame_size(kept, at) > len(body) - head.size:
        raise MalformedError(
            "packet-too-long", f"byte {at:,}: a packet of {kept} bytes in a block with room for {len(body) - head.size}"
        )
    seconds, rest = divmod(high << 32 | low, interface.units_per_s)
    at_ns = time_ns(seconds + interface.offset_s, rest * _NS_PER_S // interface.units_per_s, at)
    return CapturedFrame(at_ns, interface.link, body[head.size : head.size + kept], length, interface.name)


def _simple_packet(body: bytes, at: int, section: _Section) -> CapturedFrame:
    """Parse a packet without a time stamp; it gets that of the previous packet."""
    if len(body) < 4:
        raise MalformedError(
            "packet-block-size", f"byte {at:,}: a simple packet block of {len(body)} bytes, it needs 4"
        )
    length = Struct(section.order + "I").unpack_from(body)[0]
    interface = _interface_for(section, 0, at)
    kept = frame_size(min(length, interface.kept or length, len(body) - 4), at)
    return CapturedFrame(section.last_ns, interface.link, body[4 : 4 + kept], length, interface.name)


def _interface_for(section: _Section, number: int, at: int) -> _Interface:
    if number >= len(section.interfaces):
        raise MalformedError(
            "unknown-interface", f"byte {at:,}: a packet of interface {number}, which no block before describes"
        )
    return section.interfaces[number]


_MICROSECONDS, _NANOSECONDS = 0xA1B2C3D4, 0xA1B23C4D
_LINK = 0xFFFF  # the bits above are about a checksum after each frame
_VERSION = 2
_OTHERS = {  # files that are mistaken for captures
    b"\x1f\x8b": "compressed with gzip; run `gunzip` on it first",
    b"\x28\xb5\x2f\xfd": "compressed with zstd; run `unzstd` on it first",
    b"\xfd7zX": "compressed with xz; run `unxz` on it first",
    b"BZh": "compressed with bzip2; run `bunzip2` on it first",
    b"\x34\xcd\xb2\xa1": "an obsolete variant of pcap; convert it with `editcap -F pcap`",
    b"\xa1\xb2\xcd\x34": "an obsolete variant of pcap; convert it with `editcap -F pcap`",
    b"snoop": "a capture of Solaris's snoop; convert it with `editcap -F pcap`",
}
_NO_CAPTURE = "not a capture file; create one with `tcpdump -w FILE`"


class _Form(NamedTuple):
    order: str  # as struct writes it
    fraction_ns: int
    link: int


class CaptureFile:
    """An iterable of the frames, usable once. MalformedError names the fault and its offset.

    A truncated file yields the frames before its end; afterwards `truncated` describes where it ends.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._stream = Stream(file)
        self.truncated = ""

    def __iter__(self) -> Iterator[CapturedFrame]:
        try:
            magic = self._stream.read_or_end(4, "its first word")
            if not magic:
                raise MalformedError("empty-file", f"the file is empty; {_NO_CAPTURE.partition('; ')[2]}")
            if magic == SECTION:
                yield from frames(self._stream)
            else:
                yield from _frames(self._stream, _form(self._stream, magic))
        except TruncatedError as error:
            self.truncated = str(error)


def _form(stream: Stream, magic: bytes) -> _Form:
    for order in "<>":
        number = Struct(order + "I").unpack(magic)[0]
        if number in (_MICROSECONDS, _NANOSECONDS):
            header = Struct(order + "HH12xI").unpack(stream.read(20, "the file header"))
            major, minor, link = header
            if major != _VERSION:
                raise MalformedError(
                    "unsupported-version", f"byte 4: pcap of version {major}.{minor}; doorward reads version 2"
                )
            return _Form(order, 1000 if number == _MICROSECONDS else 1, link & _LINK)
    start = magic + stream.read_some(4)
    raise MalformedError(
        "not-a-capture", next((what for sign, what in _OTHERS.items() if start.startswith(sign)), _NO_CAPTURE)
    )


def _frames(stream: Stream, form: _Form) -> Iterator[CapturedFrame]:
    record = Struct(form.order + "IIII")
    while head := stream.read_or_end(record.size, "a packet's header"):
        at = stream.at - record.size
        seconds, fraction, kept, length = record.unpack(head)
        data = stream.read(frame_size(kept, at), "a packet")
        yield CapturedFrame(time_ns(seconds, fraction * form.fraction_ns, at), form.link, data, length)
