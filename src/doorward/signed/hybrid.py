"""HPKE as suite 2 uses it: MLKEM768-X25519 by `cryptography`. Pure.

Importing this module raises HostError where `cryptography` is too old for it.

A raw public key is ML-KEM-768's (FIPS 203), then X25519's; a raw private one is ML-KEM's seed, then X25519's scalar.
"""

from __future__ import annotations

from collections.abc import Callable

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from doorward.errors import HostError, MalformedError
from doorward.signed import hpke as x25519

try:
    from cryptography.hazmat.primitives import hpke
    from cryptography.hazmat.primitives.asymmetric import mlkem
except ImportError:
    raise HostError(
        "cryptography-too-old",
        "keys of the suite mlkem768-x25519 need the Python package cryptography 48 or newer; upgrade it, or make the"
        " server's key with `doorward key server --suite x25519`",
    ) from None

_HPKE = hpke.Suite(hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.CHACHA20_POLY1305)


def generate() -> bytes:
    """Return a new private key."""
    return mlkem.MLKEM768PrivateKey.generate().private_bytes_raw() + x25519.generate()


def public_of(private: bytes) -> bytes:
    """Return the public key of a private one."""
    seed, scalar = private[: -x25519.KEY_BYTES], private[-x25519.KEY_BYTES :]
    kem = mlkem.MLKEM768PrivateKey.from_seed_bytes(seed)
    return kem.public_key().public_bytes_raw() + x25519.public_of(scalar)


def check_public(public: bytes) -> None:
    """Check a public key of the right length. ValueError: invalid."""
    _load_public(public)
    x25519.check_public(public[-x25519.KEY_BYTES :])


def seal(public: bytes, plaintext: bytes, info: bytes, random: bytes) -> bytes:  # noqa: ARG001 - takes its own
    """Return the encapsulated key and the ciphertext."""
    return _HPKE.encrypt(plaintext, _load_public(public), info)


def opener(private: bytes, info: bytes) -> Callable[[bytes], bytes]:
    """Return the function that opens what was sealed to this key. It raises MalformedError for anything else."""
    kem = mlkem.MLKEM768PrivateKey.from_seed_bytes(private[: -x25519.KEY_BYTES])
    scalar = X25519PrivateKey.from_private_bytes(private[-x25519.KEY_BYTES :])
    key = hpke.MLKEM768X25519PrivateKey(kem, scalar)

    def open_sealed(sealed: bytes) -> bytes:
        try:
            return _HPKE.decrypt(sealed, key, info)
        except (InvalidTag, ValueError):
            raise MalformedError("not-sealed-to-key", "not sealed to this server's key") from None

    return open_sealed


def _load_public(public: bytes) -> hpke.MLKEM768X25519PublicKey:
    kem = mlkem.MLKEM768PublicKey.from_public_bytes(public[: -x25519.KEY_BYTES])
    return hpke.MLKEM768X25519PublicKey(kem, X25519PublicKey.from_public_bytes(public[-x25519.KEY_BYTES :]))
