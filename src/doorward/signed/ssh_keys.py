"""Parse SSH public keys and verify their signatures over SSHSIG data. Pure.

Formats: RFC 4253 section 6.6 (rsa), RFC 5656 (ecdsa), RFC 8709 (ed25519), OpenSSH's PROTOCOL.u2f (sk-: security keys).
Only the canonical form of a key is accepted, so that its fingerprint identifies it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from doorward.errors import MalformedError
from doorward.signed.ssh_wire import SshReader, fingerprint_text
from doorward.signed.sshsig import signed_data

RSA_MIN_BITS = 2048
RSA_MAX_BITS = 16_384  # as OpenSSH; verification then takes a millisecond
RSA_MAX_EXPONENT_BITS = 32  # 65537 everywhere, 37 in old PuTTY; a long exponent makes verification slow
MAX_CACHED = 16_384  # cached keys, 1 to 3 KiB each; beyond it the least recently used is reloaded in 3 to 10 us
_ED25519_KEY_BYTES, _ED25519_SIGNATURE_BYTES = 32, 64
_TOUCHED, _VERIFIED = 1, 4  # bits in the flags of a security key's signature

# Verifies (algorithm name, signature, signed data); raises InvalidSignature or MalformedError.
_Check = Callable[[bytes, bytes, bytes], None]


class BadSignatureError(MalformedError):
    """An invalid signature; the text says why."""


class PublicKey(NamedTuple):
    """A key validated by `parse_public_key`: OpenSSH's name of its kind, and its blob."""

    kind: str
    blob: bytes

    @property
    def fingerprint(self) -> bytes:
        """SHA-256 of the blob, 32 bytes."""
        return hashlib.sha256(self.blob).digest()

    @property
    def fingerprint_text(self) -> str:
        """The fingerprint as `ssh-keygen -l` prints it."""
        return fingerprint_text(self.fingerprint)


class Presence(NamedTuple):
    """User presence asserted by a security key: touched, verified (PIN, fingerprint). Other keys: both."""

    touched: bool
    verified: bool


class _Loaded(NamedTuple):
    """A key ready to verify signatures; `application` only for security keys."""

    kind: bytes
    check: _Check
    application: bytes | None


def parse_public_key(blob: bytes) -> PublicKey:
    """Parse a key blob. MalformedError: not a key, not in canonical form, or of an unsupported kind."""
    return PublicKey(_load(blob).kind.decode(), blob)  # not cached: it may be untrusted


def verify(key: PublicKey, signature: bytes, text: bytes) -> Presence:
    """Verify a signature over `sshsig.signed_data(text)`. BadSignatureError says why it is invalid."""
    return verify_data(key, signature, signed_data(text))


def verify_data(key: PublicKey, signature: bytes, data: bytes) -> Presence:
    """Verify a signature over `data` itself, as in certificates. BadSignatureError says why it is invalid."""
    loaded = _load_cached(key.blob)
    try:
        return _verify(loaded, signature, data)
    except InvalidSignature:
        raise BadSignatureError("bad-signature", "the signature is by another key, or over other data") from None
    except BadSignatureError:
        raise
    except MalformedError as error:
        raise BadSignatureError(error.code, str(error)) from None


def _verify(loaded: _Loaded, signature: bytes, data: bytes) -> Presence:
    reader = SshReader(signature, "the signature")
    algorithm, inner = reader.string(), reader.string()
    if loaded.application is None:
        reader.expect_end()
        loaded.check(algorithm, inner, data)
        return Presence(touched=True, verified=True)
    flags = reader.read(5)  # flags, and a counter that is not needed: replays are detected elsewhere
    reader.expect_end()
    signed = hashlib.sha256(loaded.application).digest() + flags + hashlib.sha256(data).digest()
    loaded.check(algorithm, inner, signed)
    return Presence(touched=bool(flags[0] & _TOUCHED), verified=bool(flags[0] & _VERIFIED))


def _load(blob: bytes) -> _Loaded:
    reader = SshReader(blob, "the key")
    kind = reader.string()
    load = _KINDS.get(kind)
    if load is None:
        raise MalformedError(
            "unsupported-key-kind",
            f"a key of kind {_printable(kind)}; use {', '.join(name.decode() for name in _KINDS)}",
        )
    check = load(kind, reader)
    application = reader.string() if kind.startswith(b"sk-") else None
    reader.expect_end()
    return _Loaded(kind, check, application)


_load_cached = lru_cache(MAX_CACHED)(_load)


def _load_ed25519(kind: bytes, reader: SshReader) -> _Check:
    raw = reader.string()
    if len(raw) != _ED25519_KEY_BYTES:
        raise MalformedError("key-size", f"an ed25519 key of {len(raw)} bytes; it has {_ED25519_KEY_BYTES}")
    key = ed25519.Ed25519PublicKey.from_public_bytes(raw)

    def check(algorithm: bytes, signature: bytes, data: bytes) -> None:
        if algorithm != kind:
            raise _wrong_algorithm(algorithm, kind)
        if len(signature) != _ED25519_SIGNATURE_BYTES:
            raise BadSignatureError(
                "signature-size", f"the ed25519 signature has {len(signature)} bytes, not {_ED25519_SIGNATURE_BYTES}"
            )
        key.verify(signature, data)

    return check


def _load_ecdsa(
    curve: ec.EllipticCurve, name: bytes, hashed: hashes.HashAlgorithm
) -> Callable[[bytes, SshReader], _Check]:
    algorithm_of_hash = ec.ECDSA(hashed)

    def load(kind: bytes, reader: SshReader) -> _Check:
        if reader.string() != name:
            raise MalformedError("other-curve", f"a key of kind {_printable(kind)} on another curve")
        key = _point(curve, reader.string())

        def check(algorithm: bytes, signature: bytes, data: bytes) -> None:
            if algorithm != kind:
                raise _wrong_algorithm(algorithm, kind)
            numbers = SshReader(signature, "the ecdsa signature")
            r, s = numbers.positive(canonical=False), numbers.positive(canonical=False)
            numbers.expect_end()
            key.verify(encode_dss_signature(r, s), data, algorithm_of_hash)

        return check

    return load


def _point(curve: ec.EllipticCurve, raw: bytes) -> ec.EllipticCurvePublicKey:
    if raw[:1] != b"\x04":  # the compressed form would be a second form of the same key
        raise MalformedError("compressed-point", "an ecdsa key with a compressed point")
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(curve, raw)
    except ValueError:
        raise MalformedError("point-not-on-curve", "an ecdsa key whose point is not on its curve") from None


def _load_rsa(kind: bytes, reader: SshReader) -> _Check:
    exponent, modulus = reader.positive(canonical=True), reader.positive(canonical=True)
    key = _rsa_key(exponent, modulus)
    size = (modulus.bit_length() + 7) // 8
    scheme = padding.PKCS1v15()

    def check(algorithm: bytes, signature: bytes, data: bytes) -> None:
        hashed = _RSA_HASHES.get(algorithm)
        if algorithm == kind:
            raise BadSignatureError(
                "sha1-signature", "the signature is rsa with SHA-1, which is broken; sign with rsa-sha2-512"
            )
        if hashed is None:
            raise _wrong_algorithm(algorithm, kind)
        if len(signature) > size:
            raise BadSignatureError(
                "signature-size", f"the rsa signature has {len(signature)} bytes, but the key has {size}"
            )
        key.verify(signature.rjust(size, b"\0"), data, scheme, hashed)  # some signers omit leading zeros

    return check


def _rsa_key(exponent: int, modulus: int) -> rsa.RSAPublicKey:
    bits = modulus.bit_length()
    if bits < RSA_MIN_BITS:
        raise MalformedError(
            "rsa-too-small", f"an rsa key of {bits} bits is too weak; use ed25519, or rsa of 3072 bits"
        )
    if bits > RSA_MAX_BITS:
        raise MalformedError("rsa-too-large", f"an rsa key of {bits} bits; use at most {RSA_MAX_BITS}")
    if exponent.bit_length() > RSA_MAX_EXPONENT_BITS or modulus % 2 == 0:
        raise MalformedError("unusual-rsa-key", "an unusual rsa key; make a new one")
    try:
        return rsa.RSAPublicNumbers(exponent, modulus).public_key()
    except ValueError:
        raise MalformedError("unusual-rsa-key", "an unusual rsa key; make a new one") from None


def _wrong_algorithm(algorithm: bytes, kind: bytes) -> BadSignatureError:
    return BadSignatureError(
        "signature-kind", f"the signature is of kind {_printable(algorithm)}, and the key of kind {_printable(kind)}"
    )


def _printable(name: bytes) -> str:
    """Return untrusted bytes as short, printable text."""
    return ascii(name[:60].decode("ascii", errors="replace"))


_NISTP256 = _load_ecdsa(ec.SECP256R1(), b"nistp256", hashes.SHA256())
_KINDS: dict[bytes, Callable[[bytes, SshReader], _Check]] = {
    b"ssh-ed25519": _load_ed25519,
    b"ecdsa-sha2-nistp256": _NISTP256,
    b"ecdsa-sha2-nistp384": _load_ecdsa(ec.SECP384R1(), b"nistp384", hashes.SHA384()),
    b"ecdsa-sha2-nistp521": _load_ecdsa(ec.SECP521R1(), b"nistp521", hashes.SHA512()),
    b"ssh-rsa": _load_rsa,
    b"sk-ssh-ed25519@openssh.com": _load_ed25519,
    b"sk-ecdsa-sha2-nistp256@openssh.com": _NISTP256,
}
KINDS = frozenset(kind.decode() for kind in _KINDS)
_RSA_HASHES: dict[bytes, hashes.HashAlgorithm] = {b"rsa-sha2-512": hashes.SHA512(), b"rsa-sha2-256": hashes.SHA256()}
