"""The packet around a signed knock: a clear check of 16 bytes, then HPKE (docs/reference/signed-knock.md).

    packet = check || enc || ciphertext

The check is BLAKE2s (RFC 7693) of the rest, under a key derived from the server's public key: rejecting a sender who
does not know that key costs about a microsecond. HPKE (RFC 9180) in base mode seals the plaintext to the server's key.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Literal

from cryptography.exceptions import InvalidTag

from doorward.errors import MalformedError
from doorward.signed.server_key import PrivateKey, ServerKey, Suite

CHECK_BYTES, TAG_BYTES = 16, 16
INFO = b"doorward signed knock 1"
PERSON = b"doorwrd1"  # BLAKE2s takes eight bytes


def plaintext_capacity(suite: Suite, length: int) -> int:
    """Return how many bytes of plaintext fit in a packet of this length."""
    return length - CHECK_BYTES - suite.enc_bytes - TAG_BYTES


def check_key(key: ServerKey) -> bytes:
    """Return the 32-byte key of the check."""
    return hashlib.blake2s(bytes([key.suite.number]) + key.raw, person=PERSON).digest()


def check(keyed: bytes, sealed: bytes | memoryview) -> bytes:
    """Return the check of the bytes that follow it, under the key from `check_key`."""
    return hashlib.blake2s(sealed, key=keyed, digest_size=CHECK_BYTES, person=PERSON).digest()


def seal(key: ServerKey, plaintext: bytes) -> bytes:
    """Return the packet for a padded plaintext. It differs each time: HPKE's ephemeral key is fresh."""
    sealed = key.suite.hpke.encrypt(plaintext, key.for_hpke(), INFO)
    return check(check_key(key), sealed) + sealed


class Decryptor:
    """Decrypts packets sealed to one server key."""

    def __init__(self, key: PrivateKey) -> None:
        self._key = key
        self._check_key = check_key(key.public)
        self.lengths = frozenset({key.suite.short_bytes, key.suite.long_bytes})

    def is_garbage(self, packet: bytes) -> Literal["", "length", "check"]:
        """Return why the sender cannot know the server's key ("length", "check"), or "". Cheap."""
        if len(packet) not in self.lengths:
            return "length"
        if not hmac.compare_digest(check(self._check_key, memoryview(packet)[CHECK_BYTES:]), packet[:CHECK_BYTES]):
            return "check"
        return ""

    def open(self, packet: bytes) -> bytes:
        """Return the plaintext of a packet that passed `is_garbage`. MalformedError: not sealed to this key."""
        try:
            return self._key.suite.hpke.decrypt(packet[CHECK_BYTES:], self._key.for_hpke, INFO)
        except (InvalidTag, ValueError):
            raise MalformedError("not-sealed-to-key", "not sealed to this server's key") from None
