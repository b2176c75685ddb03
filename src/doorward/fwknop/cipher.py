"""The cryptography of fwknop's packets: HMAC and AES, with the keys that both sides share. Pure."""

from __future__ import annotations

import hashlib
import hmac
import re

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from doorward.errors import MalformedError
from doorward.fwknop.spa_packet import BLOCK_BYTES, PREFIX, SALT_AT, SEALED_AT
from doorward.model import SecretBytes

_KEY_BYTES, _IV_BYTES = 32, 16  # of AES-256
_RANDOM = re.compile(r"[0-9]{16}")


class Authenticator:
    """The HMAC (RFC 2104) of one key, with the states of the hash after the key and the fixed prefix kept.

    With hmac.HMAC.copy() each packet would take half as long again, and all keys are tried.
    """

    def __init__(self, key: SecretBytes, digest: str) -> None:
        """`digest` is one of HMACS."""
        new = getattr(hashlib, digest)
        block = (new(key).digest() if len(key) > new().block_size else bytes(key)).ljust(new().block_size, b"\0")
        self._inner = new(bytes(byte ^ 0x36 for byte in block) + PREFIX)
        self._outer = new(bytes(byte ^ 0x5C for byte in block))

    def verifies(self, text: bytes, tag: bytes) -> bool:
        """Return whether `tag` is the HMAC of the prefix and `text`, in constant time."""
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(text)
        outer.update(inner.digest())
        return hmac.compare_digest(outer.digest(), tag)


def decrypt(sealed: bytes, key: SecretBytes) -> str:
    """Return the fields and their digest. MalformedError: sealed with another key or in another mode, or changed."""
    derived, data = b"", bytes(key) + sealed[SALT_AT:SEALED_AT]
    last = b""
    while len(derived) < _KEY_BYTES + _IV_BYTES:  # EVP_BytesToKey with MD5 and one iteration
        last = hashlib.md5(last + data, usedforsecurity=False).digest()
        derived += last
    cipher = Cipher(algorithms.AES(derived[:_KEY_BYTES]), modes.CBC(derived[_KEY_BYTES:]))
    decryptor = cipher.decryptor()
    padded = decryptor.update(sealed[SEALED_AT:]) + decryptor.finalize()
    plain, padding = padded[: -padded[-1]], padded[-padded[-1] :]
    is_padded = 1 <= padded[-1] <= BLOCK_BYTES and padding == bytes([padded[-1]]) * padded[-1]
    if not is_padded or not plain.isascii() or not _RANDOM.fullmatch(plain[:16].decode()) or plain[16:17] != b":":
        raise MalformedError("wrong-key", "it was encrypted with another key or in another mode")
    return plain.decode()
