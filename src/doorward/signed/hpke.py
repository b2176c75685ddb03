"""HPKE (RFC 9180) as suite 1 uses it: base mode, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-128-GCM, no aad. Pure.

Written here over primitives that every version of `cryptography` has; its own `hpke` begins with version 48.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from functools import cache

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from doorward.errors import MalformedError

KEY_BYTES = 32  # of public, private and ephemeral keys
_AEAD_KEY_BYTES, _NONCE_BYTES = 16, 12
_BASE_POINT = b"\x09".ljust(KEY_BYTES, b"\0")
_VERSION = b"HPKE-v1"
_KEM = b"KEM\x00\x20"
_SUITE = b"HPKE\x00\x20\x00\x01\x00\x01"


def generate() -> bytes:
    """Return a new private key."""
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat  # 10 ms

    return X25519PrivateKey.generate().private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())


def public_of(private: bytes) -> bytes:
    """Return the public key of a private one."""
    return _public(X25519PrivateKey.from_private_bytes(private))


def check_public(public: bytes) -> None:
    """Check a public key of the right length. ValueError: a point of low order, to which nothing can be sealed."""
    any_private = X25519PrivateKey.from_private_bytes(_BASE_POINT)
    any_private.exchange(X25519PublicKey.from_public_bytes(public))


def derive_private(material: bytes) -> bytes:
    """Return the private key of DeriveKeyPair (RFC 9180 section 7.1.3)."""
    return _expand(_extract(b"", _KEM, b"dkp_prk", material), _KEM, b"sk", b"", KEY_BYTES)


def seal(public: bytes, plaintext: bytes, info: bytes, random: bytes) -> bytes:
    """Return the encapsulated key and the ciphertext; `random` has 32 bytes.

    Where a random number generator repeats itself, as after a snapshot, two plaintexts still get two keys.
    """
    return seal_with(derive_private(hmac.digest(random, plaintext, "sha256")), public, plaintext, info)


def seal_with(ephemeral: bytes, public: bytes, plaintext: bytes, info: bytes) -> bytes:
    """Seal with this ephemeral private key, which must never seal another plaintext."""
    private = X25519PrivateKey.from_private_bytes(ephemeral)
    enc = _public(private)
    key, nonce = key_and_nonce(private.exchange(X25519PublicKey.from_public_bytes(public)), enc, public, info)
    return enc + AESGCM(key).encrypt(nonce, plaintext, None)


def opener(private: bytes, info: bytes) -> Callable[[bytes], bytes]:
    """Return the function that opens what was sealed to this key. It raises MalformedError for anything else."""
    key = X25519PrivateKey.from_private_bytes(private)
    public = _public(key)

    def open_sealed(sealed: bytes) -> bytes:
        enc = sealed[:KEY_BYTES]
        try:
            shared = key.exchange(X25519PublicKey.from_public_bytes(enc))  # ValueError: a point of low order
            message_key, nonce = key_and_nonce(shared, enc, public, info)
            return AESGCM(message_key).decrypt(nonce, sealed[KEY_BYTES:], None)
        except (InvalidTag, ValueError):
            raise MalformedError("not-sealed-to-key", "not sealed to this server's key") from None

    return open_sealed


def key_and_nonce(shared: bytes, enc: bytes, public: bytes, info: bytes) -> tuple[bytes, bytes]:
    """Return the key and the nonce of the first message, from the result of the Diffie-Hellman exchange."""
    secret = _expand(_extract(b"", _KEM, b"eae_prk", shared), _KEM, b"shared_secret", enc + public, 32)
    secret = _extract(secret, _SUITE, b"secret", b"")
    context = _context(info)
    key = _expand(secret, _SUITE, b"key", context, _AEAD_KEY_BYTES)
    return key, _expand(secret, _SUITE, b"base_nonce", context, _NONCE_BYTES)


@cache
def _context(info: bytes) -> bytes:
    mode_base = b"\0"
    return mode_base + _extract(b"", _SUITE, b"psk_id_hash", b"") + _extract(b"", _SUITE, b"info_hash", info)


def _extract(salt: bytes, suite: bytes, label: bytes, material: bytes) -> bytes:
    """LabeledExtract: HKDF-Extract, which is one HMAC."""
    return hmac.digest(salt, _VERSION + suite + label + material, "sha256")


def _expand(secret: bytes, suite: bytes, label: bytes, info: bytes, length: int) -> bytes:
    """LabeledExpand for at most 32 bytes: the first block of HKDF-Expand, which is one HMAC."""
    labeled = b"".join((length.to_bytes(2), _VERSION, suite, label, info, b"\x01"))
    return hmac.digest(secret, labeled, "sha256")[:length]


def _public(private: X25519PrivateKey) -> bytes:
    return private.exchange(X25519PublicKey.from_public_bytes(_BASE_POINT))  # as RFC 7748 section 6.1 defines it
