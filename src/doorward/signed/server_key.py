"""The server's key pair for signed knocks: text forms and fingerprint. Pure, except for generating a key.

The public key is one word, `x25519:BASE64` or `mlkem768-x25519:BASE64`; the private file has the same form with
`-private` after the suite. The hybrid's raw public key is ML-KEM-768's (FIPS 203), then X25519's (RFC 7748); its raw
private key is ML-KEM's seed, then X25519's scalar.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import NamedTuple

from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric import mlkem, x25519

from doorward.errors import MalformedError
from doorward.signed.message import HYBRID_BYTES, LONG_BYTES, SHORT_BYTES
from doorward.signed.ssh_wire import fingerprint_text

_X25519_BYTES = 32
_MLKEM_SEED_BYTES, _MLKEM_PUBLIC_BYTES = 64, 1184
_PRIVATE = "-private"
_HPKE_KDF, _HPKE_AEAD = hpke.KDF.HKDF_SHA256, hpke.AEAD.CHACHA20_POLY1305


class Suite(NamedTuple):
    """A cipher suite: name, HPKE algorithms (RFC 9180), and packet lengths in bytes.

    `long_bytes` is for signatures that do not fit in `short_bytes`; the hybrid suite has one length only.
    """

    name: str
    number: int
    hpke: hpke.Suite
    enc_bytes: int
    public_bytes: int
    private_bytes: int
    short_bytes: int
    long_bytes: int


X25519 = Suite("x25519", 1, hpke.Suite(hpke.KEM.X25519, _HPKE_KDF, _HPKE_AEAD), 32, 32, 32, SHORT_BYTES, LONG_BYTES)
HYBRID = Suite(
    "mlkem768-x25519",
    2,
    hpke.Suite(hpke.KEM.MLKEM768_X25519, _HPKE_KDF, _HPKE_AEAD),
    1120,
    1216,
    96,
    HYBRID_BYTES,
    HYBRID_BYTES,
)
SUITES = {suite.name: suite for suite in (X25519, HYBRID)}


class ServerKey(NamedTuple):
    """The public key. A client needs it, and an authorized key of its own, to knock."""

    suite: Suite
    raw: bytes

    def __str__(self) -> str:
        return f"{self.suite.name}:{base64.b64encode(self.raw).decode()}"

    @property
    def fingerprint(self) -> str:
        """Fingerprint in OpenSSH's format; also the name of a gate without a configured one."""
        return fingerprint_text(hashlib.sha256(str(self).encode()).digest())

    def for_hpke(self) -> x25519.X25519PublicKey | hpke.MLKEM768X25519PublicKey:
        """Return the key in the form that HPKE encrypts to."""
        x = x25519.X25519PublicKey.from_public_bytes(self.raw[-_X25519_BYTES:])
        if self.suite is X25519:
            return x
        return hpke.MLKEM768X25519PublicKey(mlkem.MLKEM768PublicKey.from_public_bytes(self.raw[:-_X25519_BYTES]), x)


class PrivateKey:
    """The private key. Has no revealing repr."""

    def __init__(self, suite: Suite, raw: bytes) -> None:
        self.suite = suite
        x = x25519.X25519PrivateKey.from_private_bytes(raw[-_X25519_BYTES:])
        public = x.public_key().public_bytes_raw()
        self.for_hpke: x25519.X25519PrivateKey | hpke.MLKEM768X25519PrivateKey = x
        if suite is HYBRID:
            kem = mlkem.MLKEM768PrivateKey.from_seed_bytes(raw[:-_X25519_BYTES])
            self.for_hpke = hpke.MLKEM768X25519PrivateKey(kem, x)
            public = kem.public_key().public_bytes_raw() + public
        self.public = ServerKey(suite, public)


def parse_server_key(text: str) -> ServerKey:
    """Parse a public key. MalformedError: not a server key."""
    suite, raw = _parse(text, "", "a server's key")
    key = ServerKey(suite, raw)
    try:
        key.for_hpke()
    except ValueError:
        raise MalformedError("invalid-bytes", "invalid bytes in a server's key") from None
    return key


def parse_private_key(text: str) -> PrivateKey:
    """Parse the contents of a private key file; lines that begin with # are comments. MalformedError: invalid."""
    lines = [line.strip() for line in text.splitlines()]
    words = [line for line in lines if line and not line.startswith("#")]
    if len(words) != 1:
        raise MalformedError("not-one-line", f"a server's private key is one line; found {len(words)}")
    return PrivateKey(*_parse(words[0], _PRIVATE, "a server's private key"))


def generate_private_text(suite: Suite) -> str:
    """Generate a key; return the contents of its file."""
    raw = x25519.X25519PrivateKey.generate().private_bytes_raw()
    if suite is HYBRID:
        raw = mlkem.MLKEM768PrivateKey.generate().private_bytes_raw() + raw
    word = f"{suite.name}{_PRIVATE}:{base64.b64encode(raw).decode()}"
    return f"# doorward's server key. Anyone who has it can read signed knocks: keep it secret.\n{word}\n"


def _parse(text: str, suffix: str, what: str) -> tuple[Suite, bytes]:
    name, colon, encoded = text.strip().partition(":")
    suite = SUITES.get(name.removesuffix(suffix)) if name.endswith(suffix) else None
    if suite is None or not colon:
        known = " or ".join(f"{suite_name}{suffix}:…" for suite_name in SUITES)
        raise MalformedError("key-prefix", f"{what} begins with {known}")
    try:
        raw = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise MalformedError("invalid-base64", f"{what} with invalid base64 after the colon") from None
    expected = suite.private_bytes if suffix else suite.public_bytes
    if len(raw) != expected:
        raise MalformedError("key-size", f"{what} of {len(raw)} bytes; {suite.name} has {expected}")
    return suite, raw
