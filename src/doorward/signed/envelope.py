"""The packet around a signed knock: a clear check of 16 bytes, then HPKE (docs/reference/signed-knock.md). Pure.

    packet = check || enc || ciphertext

The check is an HMAC of the rest, under a key derived from the server's public key: rejecting a sender who does not know
that key costs about a microsecond. HPKE (RFC 9180) in base mode seals the plaintext to the server's key.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Literal

from doorward.signed.server_key import INFO, PrivateKey, ServerKey, Suite, scheme

CHECK_BYTES, TAG_BYTES = 16, 16
RANDOM_BYTES = 32  # that `seal` needs
_LABEL = b"doorward check 1\0"


def plaintext_capacity(suite: Suite, length: int) -> int:
    """Return how many bytes of plaintext fit in a packet of this length."""
    return length - CHECK_BYTES - suite.enc_bytes - TAG_BYTES


def check_key(key: ServerKey) -> bytes:
    """Return the 32-byte key of the check."""
    return hashlib.sha256(_LABEL + bytes([key.suite.number]) + key.raw).digest()


def keyed_check(key: ServerKey) -> hmac.HMAC:
    """Return the keyed HMAC for `check`: a copy of it costs less than beginning with the key."""
    return hmac.new(check_key(key), digestmod="sha256")


def check(keyed: hmac.HMAC, sealed: bytes | memoryview) -> bytes:
    """Return the check of the bytes that follow it."""
    copy = keyed.copy()
    copy.update(sealed)
    return copy.digest()[:CHECK_BYTES]


def seal(key: ServerKey, plaintext: bytes, random: bytes) -> bytes:
    """Return the packet for a padded plaintext; `random` has RANDOM_BYTES, fresh for each packet."""
    sealed = scheme(key.suite).seal(key.raw, plaintext, INFO, random)
    return check(keyed_check(key), sealed) + sealed


class Decryptor:
    """Decrypts packets sealed to one server key."""

    def __init__(self, key: PrivateKey) -> None:
        self._open = key.open
        self._keyed = keyed_check(key.public)
        self.lengths = frozenset(key.public.suite.lengths)

    def is_garbage(self, packet: bytes) -> Literal["", "length", "check"]:
        """Return why the sender cannot know the server's key ("length", "check"), or "". Cheap."""
        if len(packet) not in self.lengths:
            return "length"
        if not hmac.compare_digest(check(self._keyed, memoryview(packet)[CHECK_BYTES:]), packet[:CHECK_BYTES]):
            return "check"
        return ""

    def open(self, packet: bytes) -> bytes:
        """Return the plaintext of a packet that passed `is_garbage`. MalformedError: not sealed to this key."""
        return self._open(packet[CHECK_BYTES:])
