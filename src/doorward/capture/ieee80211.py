"""Wireless frames (IEEE 802.11-2020, section 9.2), with or without radiotap in front: where the packet begins."""

from __future__ import annotations

from doorward.errors import MalformedError

_DATA, _KINDS = 2, {0: "management", 1: "control", 3: "extension"}
_PROTECTED, _ORDER, _BOTH_SYSTEMS = 0x40, 0x80, 0x03  # second byte: encrypted; HT control; a fourth address
_QUALITY, _EMPTY = 0x8, 0x4  # of the subtype
_AGGREGATE = 0x80  # of the QoS control field: several packets in one frame
_HEADER, _ADDRESS, _QUALITY_BYTES, _HT_BYTES = 24, 6, 2, 4
_SNAP = (b"\xaa\xaa\x03\0\0\0", b"\xaa\xaa\x03\0\0\xf8")  # RFC 1042, and IEEE 802.1H
_RADIOTAP_SMALLEST = 8


def of_radiotap(frame: memoryview) -> tuple[int, int]:
    """Give where the packet begins and its EtherType; radiotap tells its own length."""
    length = int.from_bytes(frame[2:4], "little")
    if not _RADIOTAP_SMALLEST <= length <= len(frame):
        raise MalformedError(f"a radiotap header of {length} bytes in a frame of {len(frame)}")
    at, kind = of_wireless(frame[length:])
    return length + at, kind


def of_wireless(frame: memoryview) -> tuple[int, int]:
    """Give where the packet of a data frame begins, and its EtherType; MalformedError for every other frame."""
    if len(frame) < _HEADER:
        raise MalformedError(f"a wireless frame of {len(frame)} bytes, its header needs {_HEADER}")
    kind, subtype, flags = frame[0] >> 2 & 3, frame[0] >> 4, frame[1]
    if kind != _DATA or subtype & _EMPTY:
        raise MalformedError(f"no IP packet: a wireless {_KINDS.get(kind, 'frame without data')} frame")
    if flags & _PROTECTED:
        raise MalformedError("a wireless frame that is encrypted; capture on the interface that has the address")
    at = _HEADER + (_ADDRESS if flags & _BOTH_SYSTEMS == _BOTH_SYSTEMS else 0)
    if subtype & _QUALITY:
        if len(frame) > at and frame[at] & _AGGREGATE:
            raise MalformedError("a wireless frame with several packets in it (A-MSDU)")
        at += _QUALITY_BYTES + (_HT_BYTES if flags & _ORDER else 0)
    if bytes(frame[at : at + 6]) not in _SNAP or len(frame) < at + 8:
        raise MalformedError("no IP packet: a wireless frame without SNAP")
    return at + 8, int.from_bytes(frame[at + 6 : at + 8])
