"""The signed knock before sealing: fields to bytes and back (docs/reference/signed-knock.md). Pure.

body       what is signed: the fields of a Request
text       what the signature is over: a label, the server's key, the body
plaintext  body, signature, zeros up to the one length of the suite
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import NamedTuple

from doorward.errors import InvalidValueError, MalformedError
from doorward.model import NAME, Place
from doorward.signed.ssh_wire import SshReader

VERSION = 1
NONCE_BYTES = 16
# Packet lengths: suite x25519 for most signers, x25519 for longer signatures, the hybrid suite.
# 448: two names of 64 characters and an ecdsa-sha2-nistp521 signature. 1,368 and 1,372: with IPv6 and UDP no more than
# 1,420 bytes, which WireGuard leaves of 1,500. All differ, so the length identifies the suite.
SHORT_BYTES, LONG_BYTES, HYBRID_BYTES = 448, 1368, 1372
PACKET_BYTES = (SHORT_BYTES, LONG_BYTES, HYBRID_BYTES)
UDP_HEADER_BYTES = 8
FINGERPRINT_BYTES = 32  # SHA-256 of the public key's blob, as `ssh-keygen -l` prints it
MAX_FOR_MS = (1 << 32) * 1000 - 1000  # whole seconds in 32 bits
_LABEL = b"doorward signed knock 1\0"
_HEAD = struct.Struct("!BQ16sIBB16s")  # version, time, nonce, seconds wanted, IP version, prefix length, address
_BITS = {4: 32, 6: 128}
_SIGNER_KEY, _SIGNER_CERTIFICATE = 0, 1


class Request(NamedTuple):
    """The fields of a signed knock.

    `time_ms` since the epoch; `for_s` None: the door's own time; `asked` None: the source address of the packet;
    `gate` "": the gate named by its key's fingerprint. `signer` is the SHA-256 of the public key or, with
    `is_certificate`, the certificate itself.
    """

    time_ms: int
    nonce: bytes
    door: str
    for_s: int | None
    asked: Place | None
    gate: str
    signer: bytes
    is_certificate: bool = False


class SignedMessage(NamedTuple):
    """The contents of a packet: the request, the signed bytes, and the signature (RFC 4253 section 6.6)."""

    request: Request
    body: bytes
    signature: bytes


def pack_body(request: Request) -> bytes:
    """Return the fields as bytes. ValueError: one is out of range."""
    asked, bits, version = b"", 0, 0
    if request.asked is not None:
        asked, bits = _pack_target(request.asked)
        version = request.asked.version
    head = _HEAD.pack(VERSION, request.time_ms, request.nonce, request.for_s or 0, version, bits, asked)
    signer_kind = _SIGNER_CERTIFICATE if request.is_certificate else _SIGNER_KEY
    return b"".join(
        (head, _short_string(request.door), _short_string(request.gate), bytes([signer_kind]), _string(request.signer))
    )


def signed_text(server_key: bytes, body: bytes) -> bytes:
    """Return the text to sign: it binds the version, the server's key and the body."""
    return b"".join((_LABEL, _string(server_key), body))


def pack_plaintext(body: bytes, signature: bytes, length: int) -> bytes:
    """Return body and signature padded to `length`. ValueError: they do not fit."""
    plaintext = body + _string(signature)
    if len(plaintext) > length:
        raise InvalidValueError("message-too-long", f"{len(plaintext)} bytes do not fit in {length}")
    return plaintext.ljust(length, b"\0")


def parse_plaintext(plaintext: bytes) -> SignedMessage:
    """Parse a decrypted message. MalformedError: not a complete, canonical message of this version."""
    reader = SshReader(plaintext, "the message")
    version, time_ms, nonce, for_s, family, bits, address = _HEAD.unpack(reader.read(_HEAD.size))
    if version != VERSION:
        raise MalformedError("unsupported-version", f"unsupported version {version}; expected {VERSION}")
    asked = _parse_target(family, bits, address)
    door, gate = _name(reader, "door"), _name(reader, "gate", may_be_empty=True)
    signer_kind, signer = reader.number(1), reader.read(reader.number(2))
    if signer_kind not in (_SIGNER_KEY, _SIGNER_CERTIFICATE):
        raise MalformedError("unknown-signer-kind", f"a signer of kind {signer_kind}")
    if signer_kind == _SIGNER_KEY and len(signer) != FINGERPRINT_BYTES:
        raise MalformedError("fingerprint-size", f"a fingerprint of {len(signer)} bytes")
    body = plaintext[: reader.offset]
    signature = reader.read(reader.number(2))
    if plaintext[reader.offset :].strip(b"\0"):
        raise MalformedError("nonzero-padding", "non-zero padding")
    is_certificate = signer_kind == _SIGNER_CERTIFICATE
    request = Request(time_ms, nonce, door, for_s or None, asked, gate, signer, is_certificate)
    return SignedMessage(request, body, signature)


def _short_string(text: str) -> bytes:
    raw = text.encode("ascii")
    return bytes([len(raw)]) + raw


def _string(raw: bytes) -> bytes:
    return struct.pack("!H", len(raw)) + raw


def _pack_target(target: Place) -> tuple[bytes, int]:
    if isinstance(target, IPv4Address | IPv6Address):
        return target.packed.ljust(16, b"\0"), _BITS[target.version]
    return target.network_address.packed.ljust(16, b"\0"), target.prefixlen


def _parse_target(version: int, bits: int, raw: bytes) -> Place | None:
    if version == 0:
        if bits or any(raw):
            raise MalformedError("no-ip-version", "an address without an IP version")
        return None
    whole = _BITS.get(version)
    if whole is None or not 0 < bits <= whole or any(raw[whole // 8 :]):
        raise MalformedError("invalid-prefix", f"an address of version {version} with a prefix of {bits}")
    address = ip_address(raw[: whole // 8])
    if bits == whole:
        return address
    try:
        return ip_network((address.packed, bits))
    except ValueError:
        raise MalformedError("host-bits", "a network with host bits set") from None


def _name(reader: SshReader, of: str, *, may_be_empty: bool = False) -> str:
    text = reader.read(reader.number(1)).decode("ascii", errors="replace")
    if not (NAME.fullmatch(text) or (may_be_empty and not text)):
        raise MalformedError("invalid-name", f"invalid {of} name")
    return text
