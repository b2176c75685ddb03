"""A capture file as a stream of bytes with a position, and what is read from it: frames."""

from __future__ import annotations

from struct import Struct
from typing import BinaryIO, NamedTuple

from doorward.errors import MalformedError

# tcpdump's own limit (MAXIMUM_SNAPLEN); D-Bus and USB captures have longer frames, and no IP in them.
MAX_FRAME_BYTES = 1 << 18
LAST_MOMENT_S = 253_000_000_000  # in the year 9987: later ones cannot be shown, and no clock says so
_SKIPPED_AT_ONCE = 1 << 16


class Frame(NamedTuple):
    """One captured frame: when, with which link header, what was kept of how many bytes, and by which interface."""

    at_ns: int  # since the epoch
    link: int  # LINKTYPE_ of libpcap's registry
    data: bytes
    length: int  # on the wire
    interface: str = ""  # only pcapng tells, and not always


class CutError(Exception):
    """The stream ends inside something: `str` says where, and in what."""


class Stream:
    """Reads exact numbers of bytes. `at` is how many were read before."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.at = 0

    def read(self, count: int, inside: str) -> bytes:
        """Give so many bytes; CutError where the stream ends first."""
        data = self.read_some(count)
        if len(data) < count:
            raise CutError(f"the file ends at byte {self.at:,}, inside {inside}")
        return data

    def read_or_end(self, count: int, inside: str) -> bytes:
        """Give so many bytes, none where the stream ends here; CutError where it ends between."""
        data = self.read_some(count)
        if 0 < len(data) < count:
            raise CutError(f"the file ends at byte {self.at:,}, inside {inside}")
        return data

    def skip(self, count: int, inside: str) -> None:
        """Pass over so many bytes."""
        while count > 0:
            count -= len(self.read(min(count, _SKIPPED_AT_ONCE), inside))

    def read_some(self, count: int) -> bytes:
        """Give so many bytes, or what is left."""
        data = self._file.read(count) if count else b""
        while 0 < len(data) < count and (more := self._file.read(count - len(data))):  # a pipe gives what it has
            data += more
        self.at += len(data)
        return data


def moment_ns(seconds: int, nanoseconds: int, at: int) -> int:
    """Give a time since the epoch; MalformedError where no calendar has it."""
    if not 0 <= seconds <= LAST_MOMENT_S:
        raise MalformedError(f"byte {at:,}: a packet has a time that no calendar knows ({seconds} s since 1970)")
    return seconds * 1_000_000_000 + nanoseconds


def frame_size(size: int, at: int) -> int:
    """Give the size of a frame back; MalformedError where it is none."""
    if size > MAX_FRAME_BYTES:
        raise MalformedError(f"byte {at:,}: a packet claims {size:,} bytes, the most is {MAX_FRAME_BYTES:,}")
    return size


def words(order: str, fields: str) -> Struct:
    """Give a struct in the byte order of whoever wrote the file."""
    return Struct(order + fields)
