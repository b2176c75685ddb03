"""The server's key pair for signed knocks: text forms and fingerprint. Pure, except for generating a key.

The public key is one word, `x25519:BASE64` or `mlkem768-x25519:BASE64`; the private file has the same form with
`-private` after the suite.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable
from typing import NamedTuple, Protocol

from doorward.errors import MalformedError
from doorward.signed import hpke
from doorward.signed.message import HYBRID_BYTES, LONG_BYTES, RAW_BYTES, SHORT_BYTES
from doorward.signed.ssh_wire import fingerprint_text

_PRIVATE = "-private"
INFO = b"doorward signed knock 1"  # of HPKE


class Suite(NamedTuple):
    """A cipher suite: its name, the lengths of its keys, and those of its packets, in bytes."""

    name: str
    number: int
    enc_bytes: int
    public_bytes: int
    private_bytes: int
    lengths: tuple[int, ...]


X25519 = Suite("x25519", 1, 32, 32, 32, (RAW_BYTES, SHORT_BYTES, LONG_BYTES))
HYBRID = Suite("mlkem768-x25519", 2, 1120, 1216, 96, (HYBRID_BYTES,))
SUITES = {suite.name: suite for suite in (X25519, HYBRID)}


class Scheme(Protocol):
    """HPKE for one suite, over raw keys: the modules `hpke` and `hybrid`."""

    def generate(self) -> bytes:
        """Return a new private key."""

    def public_of(self, private: bytes) -> bytes:
        """Return the public key of a private one."""

    def check_public(self, public: bytes) -> None:
        """Check a public key of the right length. ValueError: invalid."""

    def seal(self, public: bytes, plaintext: bytes, info: bytes, random: bytes) -> bytes:
        """Return the encapsulated key and the ciphertext."""

    def opener(self, private: bytes, info: bytes) -> Callable[[bytes], bytes]:
        """Return the function that opens what was sealed to this key. It raises MalformedError for anything else."""


def scheme(suite: Suite) -> Scheme:
    """Return the suite's HPKE. HostError: `cryptography` is too old for it."""
    if suite is X25519:
        return hpke
    from doorward.signed import hybrid

    return hybrid


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


class PrivateKey:
    """The private key. Has no revealing repr."""

    def __init__(self, suite: Suite, raw: bytes) -> None:
        self.public = ServerKey(suite, scheme(suite).public_of(raw))
        self.open = scheme(suite).opener(raw, INFO)


def parse_server_key(text: str) -> ServerKey:
    """Parse a public key. MalformedError: not a server key; HostError: `cryptography` is too old for its suite."""
    suite, raw = _parse(text, "", "a server's key")
    try:
        scheme(suite).check_public(raw)
    except ValueError:
        raise MalformedError("invalid-bytes", "invalid bytes in a server's key") from None
    return ServerKey(suite, raw)


def parse_private_key(text: str) -> PrivateKey:
    """Parse the contents of a private key file; lines that begin with # are comments. MalformedError: invalid."""
    lines = [line.strip() for line in text.splitlines()]
    words = [line for line in lines if line and not line.startswith("#")]
    if len(words) != 1:
        raise MalformedError("not-one-line", f"a server's private key is one line; found {len(words)}")
    return PrivateKey(*_parse(words[0], _PRIVATE, "a server's private key"))


def generate_private_text(suite: Suite) -> str:
    """Generate a key; return the contents of its file."""
    word = f"{suite.name}{_PRIVATE}:{base64.b64encode(scheme(suite).generate()).decode()}"
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
