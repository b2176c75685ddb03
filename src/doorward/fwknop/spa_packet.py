"""Decode the packets of fwknop 2.6 (SPA protocol 3.0.0, Rijndael). Pure.

    fields  = random ":" user ":" time ":" version ":" type ":" message [":" more]
    plain   = fields ":" BASE64(hash of fields), padded by PKCS #7
    sealed  = "Salted__" || salt || AES-256-CBC of plain, as `openssl enc` writes it
    packet  = BASE64(sealed) without its first ten letters || BASE64(HMAC of BASE64(sealed))

All base64 is without padding. Nothing in a packet says with which key or hash it was made.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Callable
from ipaddress import IPv4Address
from typing import NamedTuple

from doorward.errors import MalformedError
from doorward.model import Port

MIN_BYTES, MAX_BYTES = 140, 1500
MAX_PORTS = 32  # in one request
_MAGIC, PREFIX = b"Salted__", b"U2FsdGVkX1"  # what sealed bytes begin with; its base64, but for the last four bits
SALT_AT, SEALED_AT, BLOCK_BYTES = 8, 16, 16
_LETTERS = re.compile(rb"[A-Za-z0-9+/]*")
_COMMAND, _ACCESS, _ACCESS_TIMEOUT = "0", "1", "3"
_NAT = ("2", "4", "5", "6")
_TIME = re.compile(r"[0-9]{1,12}")
_SECONDS = re.compile(r"[0-9]{1,5}")
_ANY_SOURCE = IPv4Address(0)
HMACS = {"sha256": 43, "sha384": 64, "sha512": 86, "sha3_256": 43, "sha3_512": 86}  # letters of each in base64
_DIGESTS = {22: ("md5",), 27: ("sha1",), 43: ("sha256", "sha3_256"), 64: ("sha384",), 86: ("sha512", "sha3_512")}


class SpaRequest(NamedTuple):
    """What the sender of a packet requests: these ports for `source` (None: for where the packet came from).

    `for_s` None: for the server's default.
    """

    username: str
    time_s: int
    source: IPv4Address | None
    ports: tuple[Port, ...]
    for_s: int | None


def is_candidate(payload: bytes) -> bool:
    """Return whether a datagram has the form of a packet: letters of base64 only."""
    return (
        MIN_BYTES <= len(payload) <= MAX_BYTES
        and _LETTERS.fullmatch(payload) is not None
        and not payload.startswith(PREFIX)
    )


def split_tag(packet: bytes, digest: str) -> tuple[bytes, bytes]:
    """Split a packet into what its HMAC protects, without the prefix, and the HMAC. MalformedError: not base64."""
    letters = HMACS[digest]
    return packet[:-letters], _from_base64(packet[-letters:])


def sealed_bytes(text: bytes) -> bytes:
    """Return what a packet without its HMAC has sealed. MalformedError: its base64 is not canonical, or no block."""
    sealed = _from_base64(PREFIX + text)
    if not sealed.startswith(_MAGIC):  # four bits of the first letter, which decryption ignores
        raise MalformedError("invalid-base64", "not the canonical base64 of its bytes")
    if len(sealed) % BLOCK_BYTES or len(sealed) < SEALED_AT + BLOCK_BYTES:
        raise MalformedError("wrong-length", "its ciphertext does not end with a block")
    return sealed


def _from_base64(text: bytes) -> bytes:
    """Decode unpadded base64. MalformedError: invalid, or another spelling of the same bytes."""
    try:
        raw = base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except binascii.Error:
        raise MalformedError("invalid-base64", "invalid base64") from None
    if base64.b64encode(raw).rstrip(b"=") != text:
        raise MalformedError("invalid-base64", "not the canonical base64 of its bytes")
    return raw


def parse_plaintext(plain: str) -> SpaRequest:
    """Parse the fields. MalformedError: invalid, or a request that a door cannot serve."""
    text, _, digest = plain.rpartition(":")
    if not any(_digest(name, text) == digest for name in _DIGESTS.get(len(digest), ())):
        raise MalformedError("wrong-digest", "its digest is wrong")
    fields = text.split(":")
    if len(fields) < 6 or not _TIME.fullmatch(fields[2]):
        raise MalformedError("invalid-fields", "invalid fields")
    _, user, time_s, _version, kind, message, *more = fields
    username = _text(user)
    if kind == _COMMAND:
        raise MalformedError("command", "it requests a command; write a door with `on_open`, and signed knocks for it")
    if kind in _NAT:
        raise MalformedError("nat", "it requests an address translation, which only the configuration can define")
    if kind not in (_ACCESS, _ACCESS_TIMEOUT) or len(more) > (2 if kind == _ACCESS_TIMEOUT else 1):
        raise MalformedError("invalid-fields", "invalid fields")
    source, ports = _access(_text(message))
    return SpaRequest(username, int(time_s), source, ports, _for_s(more[-1:]) if kind == _ACCESS_TIMEOUT else None)


def _digest(name: str, text: str) -> str:
    new: Callable[..., hashlib._Hash] = getattr(hashlib, name)
    return base64.b64encode(new(text.encode(), usedforsecurity=False).digest()).rstrip(b"=").decode()


def _text(field: str) -> str:
    try:
        text = base64.b64decode(field + "=" * (-len(field) % 4), validate=True).decode("ascii")
    except ValueError:
        raise MalformedError("invalid-fields", "invalid fields") from None
    if not text or not text.isprintable():
        raise MalformedError("invalid-fields", "invalid fields")
    return text


def _access(message: str) -> tuple[IPv4Address | None, tuple[Port, ...]]:
    """Parse `192.0.2.50,tcp/22,udp/53`."""
    address, *words = message.split(",")
    try:
        source = IPv4Address(address)
        ports = tuple(dict.fromkeys(_port(word) for word in words))
    except ValueError:
        raise MalformedError("invalid-ports", "it names no address with TCP or UDP ports") from None
    if source.is_multicast or source.is_loopback or source.is_reserved:
        raise MalformedError("invalid-ports", f"it names the address {source}, not one of a host")
    if not 1 <= len(ports) <= MAX_PORTS:
        raise MalformedError("invalid-ports", f"it names {len(ports)} ports")
    return None if source == _ANY_SOURCE else source, ports


def _port(word: str) -> Port:
    protocol, _, number = word.partition("/")
    return Port.parse(f"{number}/{protocol}")


def _for_s(fields: list[str]) -> int | None:
    if not fields or not _SECONDS.fullmatch(fields[0]):
        raise MalformedError("invalid-fields", "invalid time in its fields")
    return int(fields[0]) or None
