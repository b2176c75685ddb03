"""The sealed confirmation of a signed knock that opened or closed a door (docs/reference/signed-knock.md). Pure.

    reply = salt || AES-128-GCM of 48 bytes

Only the sender of the knock and the server have its secret, which follows from the sealed plaintext.
"""

from __future__ import annotations

import hmac
import struct
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from doorward.errors import MalformedError
from doorward.model import Address, SecretBytes, Source
from doorward.signed.message import pack_source, parse_source

SALT_BYTES = 16
REPLY_BYTES = 80
SECRET_BYTES = 32
_VERSION = 1
_OPEN, _CLOSED = 0, 1  # codes
_LABEL = b"doorward reply 1"
_KEY_BYTES, _NONCE_BYTES = 16, 12
_MAX_LEFT_S = (1 << 32) - 1
_TEXT = struct.Struct("!BBBBI6s16s18s")  # version, code, IP version, prefix length, seconds, time, address, zeros


class ReplySecret(SecretBytes):
    """The secret of one knock's confirmations."""


class ReplyPath(NamedTuple):
    """Where a packet came from and which address and port it was sent to: a reply takes the way back.

    `interface`: the index of the one that it arrived on; 0: unknown.
    """

    source: Address
    source_port: int
    destination: Address
    port: int
    interface: int


class Confirmation(NamedTuple):
    """The door is open to `source` for `left_s` more seconds, or closed: None; `time_ms`: the server's clock."""

    source: Source
    left_s: int | None
    time_ms: int


def reply_secret(check: bytes, plaintext: bytes) -> ReplySecret:
    """Return the secret for a packet with this check and this whole plaintext (HKDF-Extract, one HMAC)."""
    return ReplySecret(hmac.digest(check + _LABEL, plaintext, "sha256"))


def seal_reply(secret: ReplySecret, confirmation: Confirmation, salt: bytes) -> bytes:
    """Return the datagram; `salt` is random, so that no two replies share a key."""
    version, bits, address = pack_source(confirmation.source)
    code = _CLOSED if confirmation.left_s is None else _OPEN
    left_s = min(confirmation.left_s or 0, _MAX_LEFT_S)
    text = _TEXT.pack(_VERSION, code, version, bits, left_s, confirmation.time_ms.to_bytes(6), address, b"")
    key, nonce = _key_and_nonce(secret, salt)
    return salt + AESGCM(key).encrypt(nonce, text, None)


def open_reply(secret: ReplySecret, datagram: bytes) -> Confirmation:
    """Parse a datagram. MalformedError: not a confirmation of this knock, in its only form."""
    if len(datagram) != REPLY_BYTES:
        raise MalformedError("reply-size", f"a reply of {len(datagram)} bytes; it has {REPLY_BYTES}")
    key, nonce = _key_and_nonce(secret, datagram[:SALT_BYTES])
    try:
        text = AESGCM(key).decrypt(nonce, datagram[SALT_BYTES:], None)
    except InvalidTag:
        raise MalformedError("not-sealed-to-key", "not a reply to this knock") from None
    version, code, family, bits, left_s, time, address, zeros = _TEXT.unpack(text)
    if version != _VERSION:
        raise MalformedError("unsupported-version", f"a reply of unsupported version {version}; expected {_VERSION}")
    if code not in (_OPEN, _CLOSED) or any(zeros) or (code == _CLOSED and left_s):
        raise MalformedError("invalid-reply", "a reply with unknown contents")
    source = parse_source(family, bits, address)
    return Confirmation(source, left_s if code == _OPEN else None, int.from_bytes(time))


def _key_and_nonce(secret: ReplySecret, salt: bytes) -> tuple[bytes, bytes]:
    """Return the key and the nonce (HKDF-Expand: the first block, which is one HMAC)."""
    block = hmac.digest(secret, _LABEL + salt + b"\x01", "sha256")
    return block[:_KEY_BYTES], block[_KEY_BYTES : _KEY_BYTES + _NONCE_BYTES]
