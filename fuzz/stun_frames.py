"""STUN frames: as they are, and behind the beginning of a right one."""

from __future__ import annotations

import base64

from doorward.errors import MalformedError
from doorward.signed.stun import has_integrity, unwrap

HEAD = bytes.fromhex("0001") + (328).to_bytes(2) + bytes.fromhex("2112a442") + bytes(12) + bytes.fromhex("00060104")


def one(data: bytes) -> None:
    """Unwrap the bytes; a packet has one form in a frame."""
    for frame in (data, (HEAD + data).ljust(348, b"\0")):
        has_integrity(frame, data[:24])
        try:
            packet = unwrap(frame)
        except MalformedError:
            continue
        assert base64.b64encode(packet).rstrip(b"=") == frame[24 : 24 + 254]
