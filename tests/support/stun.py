"""STUN Binding Requests as a browser sends them, made by hand."""

from __future__ import annotations

import base64
import hmac
import struct


def stun_request(packet: bytes, name: bytes, transaction: bytes, password: bytes) -> bytes:
    """Make a request whose USERNAME is the packet, a colon, and the browser's own name; as long as one of Chromium."""
    username = base64.b64encode(packet).rstrip(b"=") + b":" + name
    attributes = _attribute(0x0006, username) + _attribute(0x0024, bytes(4)) + _attribute(0xC057, bytes(4))
    header = struct.pack("!HHI", 0x0001, len(attributes) + 24, 0x2112A442) + transaction
    return header + attributes + _attribute(0x0008, hmac.digest(password, header + attributes, "sha1"))


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("!HH", kind, len(value)) + value + bytes(-len(value) % 4)
