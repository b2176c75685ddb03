"""STUN frames (RFC 8489), in which a browser sends a signed knock, and their confirmation. Pure.

    frame    = Binding Request whose first attribute is USERNAME: base64 of the packet || ":" || anything
    response = Binding Success Response: XOR-MAPPED-ADDRESS, MESSAGE-INTEGRITY, FINGERPRINT

A page chooses the first part of USERNAME and the password for MESSAGE-INTEGRITY; the browser chooses the rest. The
order of use: `unwrap`, then every check of the packet, and only for an accepted knock `has_integrity`.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
import struct
import zlib
from typing import TYPE_CHECKING

from doorward.errors import MalformedError
from doorward.model import Address
from doorward.signed.message import RAW_BYTES

if TYPE_CHECKING:
    from doorward.signed.reply import ReplySecret  # imports `cryptography`, which most gates do not need

MIN_FRAME_BYTES, MAX_FRAME_BYTES = 300, 1400
TRANSACTION_BYTES = 12
_REQUEST, _RESPONSE = 0x0001, 0x0101
_COOKIE = 0x2112A442
_USERNAME, _MESSAGE_INTEGRITY, _XOR_MAPPED_ADDRESS, _FINGERPRINT = 0x0006, 0x0008, 0x0020, 0x8028
_USERNAME_BYTES = range(255, 513)
_HEADER = struct.Struct(f"!HHI{TRANSACTION_BYTES}s")
_ATTRIBUTE = struct.Struct("!HH")
_BEGIN = struct.pack("!H", _REQUEST), struct.pack("!I", _COOKIE)  # before and behind the length
_LETTERS = (RAW_BYTES * 8 + 5) // 6
# The last letter has four unused bits, which are zero: one packet has one form.
_PACKET = re.compile(rb"[A-Za-z0-9+/]{%d}[AQgw](?=:)" % (_LETTERS - 1))
_SHA1_BYTES = 20
_FINGERPRINT_XOR = 0x5354554E
_LABEL = b"doorward ice 1"
_PASSWORD_BYTES = 18


def is_frame(datagram: bytes) -> bool:
    """Return whether a datagram begins as a STUN Binding Request, which a raw packet does not but once in 2^48."""
    return (datagram[:2], datagram[4:8]) == _BEGIN


def transaction_of(frame: bytes) -> bytes:
    """Return the transaction of a frame that `unwrap` accepts."""
    return frame[_HEADER.size - TRANSACTION_BYTES : _HEADER.size]


def unwrap(frame: bytes) -> bytes:
    """Return the packet in a STUN frame; nothing behind the packet's colon is read. MalformedError: another form."""
    if not MIN_FRAME_BYTES <= len(frame) <= MAX_FRAME_BYTES:
        raise MalformedError("stun-size", f"a STUN frame of {len(frame)} bytes")
    kind, length, cookie, _ = _HEADER.unpack_from(frame)
    if (kind, cookie) != (_REQUEST, _COOKIE) or length != len(frame) - _HEADER.size or length % 4:
        raise MalformedError("stun-header", "not a STUN Binding Request")
    kind, name_bytes = _ATTRIBUTE.unpack_from(frame, _HEADER.size)
    if kind != _USERNAME or name_bytes not in _USERNAME_BYTES:
        raise MalformedError("stun-username", "a STUN frame without the USERNAME of a knock")
    begin = _HEADER.size + _ATTRIBUTE.size
    match = _PACKET.match(frame, begin)
    if match is None or name_bytes > len(frame) - begin:
        raise MalformedError("stun-packet", "a STUN frame without a packet in base64")
    return binascii.a2b_base64(match[0] + b"==")


def ice_password(secret: ReplySecret) -> bytes:
    """Return the password of a knock's frames, from the secret of its confirmation (HKDF-Expand, one HMAC)."""
    return base64.b64encode(hmac.digest(secret, _LABEL + b"\x01", "sha256")[:_PASSWORD_BYTES])


def has_integrity(frame: bytes, password: bytes) -> bool:
    """Return whether a frame that `unwrap` accepts has the right MESSAGE-INTEGRITY."""
    offset = _HEADER.size
    while offset + _ATTRIBUTE.size <= len(frame):
        kind, length = _ATTRIBUTE.unpack_from(frame, offset)
        end = offset + _ATTRIBUTE.size + length
        if kind == _MESSAGE_INTEGRITY:
            given = frame[offset + _ATTRIBUTE.size : end]
            return hmac.compare_digest(given, _integrity(frame[:offset], password))
        offset = end + -length % 4
    return False


def success_response(transaction: bytes, source: Address, port: int, password: bytes) -> bytes:
    """Return the response to a transaction from this address and port: 64 bytes, 76 for IPv6."""
    mask = struct.pack("!I", _COOKIE) + transaction
    mapped = bytes(left ^ right for left, right in zip(source.packed, mask, strict=False))
    family = 1 if source.version == 4 else 2
    value = struct.pack("!xBH", family, port ^ _COOKIE >> 16) + mapped
    message = _HEADER.pack(_RESPONSE, 0, _COOKIE, transaction) + _attribute(_XOR_MAPPED_ADDRESS, value)
    message += _attribute(_MESSAGE_INTEGRITY, _integrity(message, password))
    message = _with_length(message, _ATTRIBUTE.size + 4)
    return message + _attribute(_FINGERPRINT, struct.pack("!I", zlib.crc32(message) ^ _FINGERPRINT_XOR))


def _integrity(before: bytes, password: bytes) -> bytes:
    """Return the HMAC of a message up to its MESSAGE-INTEGRITY, which the length includes (RFC 8489 section 14.5)."""
    return hmac.digest(password, _with_length(before, _ATTRIBUTE.size + _SHA1_BYTES), "sha1")


def _with_length(message: bytes, following: int) -> bytes:
    """Return a message whose length includes `following` more bytes."""
    return message[:2] + struct.pack("!H", len(message) - _HEADER.size + following) + message[4:]


def _attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(kind, len(value)) + value
