"""The signed knock before sealing: fields to bytes and back (docs/reference/signed-knock.md). Pure.

body       what is signed: the fields of a Request
text       what the signature is over: a label, the server's key, the body
plaintext  the body and a raw signature, which fill a packet of 190 bytes; in the longer packets the body, perhaps a
           certificate, the signature in SSH's form, and zeros

There is one way to write a message: the signer's key determines the form and the length.
"""

from __future__ import annotations

import hashlib
import struct
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import NamedTuple

from doorward.errors import InvalidValueError, MalformedError
from doorward.model import Source
from doorward.signed.ssh_wire import SshReader, string

VERSION = 1
NONCE_BYTES = 8
HASH_BYTES = 12  # of target and signer
NUMBER_BYTES = 16
UDP_HEADER_BYTES = 8
MAX_FOR_MS = (1 << 32) * 1000 - 1000  # whole seconds in 32 bits
MAX_TIME_MS = (1 << 48) - 1
# Packet lengths: x25519 with a raw signature, with one in SSH's form, with one of rsa or a certificate; the hybrid.
# 1,368 and 1,372: with IPv6 and UDP no more than 1,420 bytes, which WireGuard leaves of 1,500. All differ, so the
# length identifies the suite.
RAW_BYTES, SHORT_BYTES, LONG_BYTES, HYBRID_BYTES = 190, 448, 1368, 1372
PACKET_BYTES = (RAW_BYTES, SHORT_BYTES, LONG_BYTES, HYBRID_BYTES)
CLOSE, ONCE, CONFIRM, CERTIFICATE = 1, 2, 4, 8  # flags
_ALL_FLAGS = CLOSE | ONCE | CONFIRM | CERTIFICATE
_LABEL = b"doorward signed knock 1\0"
_CERTIFIED_LABEL = b"doorward certified signer 1\0"
_TARGET_LABEL = b"doorward target 1\0"
# Version, flags, time, nonce, seconds, IP version, prefix length, address, target, signer.
_BODY = struct.Struct("!BB6s8sIBB16s12s12s")
BODY_BYTES = _BODY.size
RAW_SIGNATURE_BYTES = 64
RAW_PLAINTEXT_BYTES = BODY_BYTES + RAW_SIGNATURE_BYTES
_X25519_PLAINTEXTS = (384, 1304)
RAW_KINDS = frozenset({"ssh-ed25519", "ecdsa-sha2-nistp256"})  # of keys, whose signatures can be raw
_RAW_ALGORITHMS = tuple(string(kind.encode()) for kind in RAW_KINDS)  # how their signatures begin in SSH's form
_BITS = {4: 32, 6: 128}
_IPV4_MAPPED = bytes(10) + b"\xff\xff"


class Request(NamedTuple):
    """The fields of a signed knock.

    `time_ms` since the epoch; `target` and `signer` are hashes; `for_s` None: the door's own time; `asked` None: the
    source address of the packet.
    """

    time_ms: int
    nonce: bytes
    target: bytes
    signer: bytes
    for_s: int | None = None
    asked: Source | None = None
    flags: int = 0


class SignedMessage(NamedTuple):
    """The contents of a packet: the request, the signed bytes, signature and certificate as they were sent.

    The signature is in SSH's form (RFC 4253 section 6.6), or with `is_raw` without it.
    """

    request: Request
    body: bytes
    signature: bytes
    certificate: bytes = b""
    is_raw: bool = False


def target_hash(gate: str, door: str) -> bytes:
    """Return the hash that names a door of a gate or of a fleet; `gate` "": the one named by its key's fingerprint."""
    return hashlib.sha256(_TARGET_LABEL + _short_string(gate) + _short_string(door)).digest()[:HASH_BYTES]


def signer_hash(blob: bytes) -> bytes:
    """Return the hash that names the signer, of its public key or certificate."""
    return hashlib.sha256(blob).digest()[:HASH_BYTES]


def certified_hash(authority: bytes, key_id: str) -> bytes:
    """Return the hash that identifies who has a certificate, by its authority's fingerprint and its key ID."""
    return hashlib.sha256(_CERTIFIED_LABEL + authority + key_id.encode(errors="replace")).digest()[:HASH_BYTES]


def message_number(body: bytes) -> bytes:
    """Return the number that is valid once; sealing the same body again does not change it."""
    return hashlib.sha256(body).digest()[:NUMBER_BYTES]


def pack_body(request: Request) -> bytes:
    """Return the fields as bytes. ValueError, OverflowError: one is out of range."""
    version, bits, address = (0, 0, b"") if request.asked is None else pack_source(request.asked)
    return _BODY.pack(
        VERSION, request.flags, request.time_ms.to_bytes(6), request.nonce, request.for_s or 0, version, bits, address,
        request.target, request.signer,
    )  # fmt: skip


def signed_text(server_key: bytes, body: bytes) -> bytes:
    """Return the text to sign: it binds the version, the server's key and the body."""
    return b"".join((_LABEL, _string(server_key), body))


def pack_plaintext(body: bytes, signature: bytes, length: int, certificate: bytes = b"") -> bytes:
    """Return body, certificate and signature padded to `length`. ValueError: they do not fit."""
    if length == RAW_PLAINTEXT_BYTES:
        plaintext = body + signature
    else:
        plaintext = body + (_string(certificate) if certificate else b"") + _string(signature)
    if len(plaintext) > length:
        raise InvalidValueError("message-too-long", f"{len(plaintext)} bytes do not fit in {length}")
    return plaintext.ljust(length, b"\0")


def packed_bytes(signature_bytes: int, certificate: bytes | None = None) -> int:
    """Return the length of a plaintext without padding, its signature in SSH's form."""
    return BODY_BYTES + (2 + len(certificate) if certificate else 0) + 2 + signature_bytes


def parse_plaintext(plaintext: bytes) -> SignedMessage:
    """Parse a decrypted message. MalformedError: not a complete message of this version in its only form."""
    reader = SshReader(plaintext, "the message")
    body = reader.read(BODY_BYTES)
    request = _parse_body(body)
    if len(plaintext) == RAW_PLAINTEXT_BYTES:
        if request.flags & CERTIFICATE:
            raise MalformedError("certificate-without-room", "a certificate announced in a packet without room for one")
        return SignedMessage(request, body, reader.read(RAW_SIGNATURE_BYTES), is_raw=True)
    certificate = b""
    if request.flags & CERTIFICATE:
        certificate = reader.read(reader.number(2))
        if not certificate or signer_hash(certificate) != request.signer:
            raise MalformedError("certificate-not-signer", "a certificate that is not the signer")
    signature = reader.read(reader.number(2))
    _check_form(plaintext, reader.offset, signature, has_certificate=bool(certificate))
    return SignedMessage(request, body, signature, certificate)


def _parse_body(body: bytes) -> Request:
    version, flags, time, nonce, for_s, family, bits, address, target, signer = _BODY.unpack(body)
    if version != VERSION:
        raise MalformedError("unsupported-version", f"unsupported version {version}; expected {VERSION}")
    if flags & ~_ALL_FLAGS:
        raise MalformedError("unknown-flags", f"unknown flags {flags:#04x}")
    if flags & CLOSE and (flags & ONCE or for_s):
        raise MalformedError("close-with-time", "closing, together with a time or a connection to open for")
    asked = parse_source(family, bits, address) if family or bits or any(address) else None
    return Request(int.from_bytes(time), nonce, target, signer, for_s or None, asked, flags)


def _check_form(plaintext: bytes, end: int, signature: bytes, *, has_certificate: bool) -> None:
    """Check that the message is in the shortest packet that holds it, and the padding zero."""
    if plaintext[end:].strip(b"\0"):
        raise MalformedError("nonzero-padding", "non-zero padding")
    if len(plaintext) not in _X25519_PLAINTEXTS:
        return  # the hybrid has one length
    if signature.startswith(_RAW_ALGORITHMS) and not has_certificate:
        raise MalformedError("not-shortest", f"a signature that belongs, raw, in a packet of {RAW_BYTES} bytes")
    if len(plaintext) > _X25519_PLAINTEXTS[0] >= end:
        raise MalformedError("not-shortest", f"a message that belongs in a packet of {SHORT_BYTES} bytes")


def _short_string(text: str) -> bytes:
    raw = text.encode("ascii")
    return bytes([len(raw)]) + raw


def _string(raw: bytes) -> bytes:
    return struct.pack("!H", len(raw)) + raw


def pack_source(source: Source) -> tuple[int, int, bytes]:
    """Return IP version, prefix length and address (16 bytes). InvalidValueError: an IPv4 address in IPv6's form."""
    if isinstance(source, IPv4Address | IPv6Address):
        bits, raw = _BITS[source.version], source.packed
    else:
        bits, raw = source.prefixlen, source.network_address.packed
    if raw.startswith(_IPV4_MAPPED):
        raise InvalidValueError("ipv4-mapped", f"{source} is an IPv4 address in IPv6's form")
    return source.version, bits, raw.ljust(16, b"\0")


def parse_source(version: int, bits: int, raw: bytes) -> Source:
    """Parse what `pack_source` returns. MalformedError: not in its only form."""
    if not version:
        raise MalformedError("no-ip-version", "an address without an IP version")
    whole = _BITS.get(version)
    if whole is None or not 0 < bits <= whole or any(raw[whole // 8 :]):
        raise MalformedError("invalid-prefix", f"an address of version {version} with a prefix of {bits}")
    if raw.startswith(_IPV4_MAPPED):
        raise MalformedError("ipv4-mapped", "an IPv4 address in IPv6's form")
    address = ip_address(raw[: whole // 8])
    if bits == whole:
        return address
    try:
        return ip_network((address.packed, bits))
    except ValueError:
        raise MalformedError("host-bits", "a network with host bits set") from None
