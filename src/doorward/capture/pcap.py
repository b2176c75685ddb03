"""Capture files as tcpdump and Wireshark write them, in either format, frame by frame in bounded memory.

pcap: draft-ietf-opsawg-pcap. A file header tells byte order, unit of time and link type; records follow.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from doorward.capture import pcapng
from doorward.capture.stream import CutError, Frame, Stream, frame_size, moment_ns, words
from doorward.errors import MalformedError

_MICROSECONDS, _NANOSECONDS = 0xA1B2C3D4, 0xA1B23C4D
_LINK = 0xFFFF  # above it, whether frames end with a checksum
_VERSION = 2
_OTHERS = {  # what people take for a capture
    b"\x1f\x8b": "it is compressed with gzip; run `gunzip` on it first",
    b"\x28\xb5\x2f\xfd": "it is compressed with zstd; run `unzstd` on it first",
    b"\xfd7zX": "it is compressed with xz; run `unxz` on it first",
    b"BZh": "it is compressed with bzip2; run `bunzip2` on it first",
    b"\x34\xcd\xb2\xa1": "it is a variant of pcap that nothing writes any more; convert it with `editcap -F pcap`",
    b"\xa1\xb2\xcd\x34": "it is a variant of pcap that nothing writes any more; convert it with `editcap -F pcap`",
    b"snoop": "it is a file of Solaris's snoop; convert it with `editcap -F pcap`",
}
_NO_CAPTURE = "it is no capture; make one with `tcpdump -w FILE`"


class _Form(NamedTuple):
    order: str  # as struct writes it
    fraction_ns: int
    link: int


class CaptureFile:
    """Iterate over it for the frames, once. MalformedError: the bytes lie, and where.

    A file that ends too early gives the frames before; afterwards `cut` says so.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._stream = Stream(file)
        self.cut = ""

    def __iter__(self) -> Iterator[Frame]:
        try:
            magic = self._stream.read_or_end(4, "its first word")
            if not magic:
                raise MalformedError(f"it is empty; {_NO_CAPTURE.partition('; ')[2]}")
            if magic == pcapng.SECTION:
                yield from pcapng.frames(self._stream)
            else:
                yield from _frames(self._stream, _form(self._stream, magic))
        except CutError as error:
            self.cut = str(error)


def _form(stream: Stream, magic: bytes) -> _Form:
    for order in "<>":
        number = words(order, "I").unpack(magic)[0]
        if number in (_MICROSECONDS, _NANOSECONDS):
            header = words(order, "HH12xI").unpack(stream.read(20, "the file header"))
            major, minor, link = header
            if major != _VERSION:
                raise MalformedError(f"byte 4: pcap of version {major}.{minor}; doorward reads version 2")
            return _Form(order, 1000 if number == _MICROSECONDS else 1, link & _LINK)
    start = magic + stream.read_some(4)
    raise MalformedError(next((what for sign, what in _OTHERS.items() if start.startswith(sign)), _NO_CAPTURE))


def _frames(stream: Stream, form: _Form) -> Iterator[Frame]:
    record = words(form.order, "IIII")
    while head := stream.read_or_end(record.size, "a packet's header"):
        at = stream.at - record.size
        seconds, fraction, kept, length = record.unpack(head)
        data = stream.read(frame_size(kept, at), "a packet")
        yield Frame(moment_ns(seconds, fraction * form.fraction_ns, at), form.link, data, length)
