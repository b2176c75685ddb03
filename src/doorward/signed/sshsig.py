"""SSHSIG: SSH signatures outside a session (OpenSSH's PROTOCOL.sshsig), and the output of `ssh-keygen -Y sign`. Pure.

The signed blob names the purpose, so a signature for doorward is not valid for a file, a commit or a login, and vice
versa.
"""

from __future__ import annotations

import base64
import binascii
import hashlib

from doorward.errors import MalformedError
from doorward.signed.message import RAW_KINDS, RAW_SIGNATURE_BYTES
from doorward.signed.ssh_wire import SshReader, mpint, string

NAMESPACE = "doorward"
HASH = "sha512"
_MAGIC = b"SSHSIG"
_VERSION = 1
_ED25519 = "ssh-ed25519"
_HEAD = _MAGIC + string(NAMESPACE.encode()) + string(b"") + string(HASH.encode())
_BEGIN, _END = "-----BEGIN SSH SIGNATURE-----", "-----END SSH SIGNATURE-----"


def signed_data(text: bytes) -> bytes:
    """Return the blob to sign for this text."""
    return _HEAD + string(hashlib.sha512(text).digest())


def parse_armored(text: str) -> tuple[bytes, bytes]:
    """Return the blobs of public key and signature from the output of `ssh-keygen -Y sign -n doorward`.

    MalformedError: not such output, or for another namespace.
    """
    reader = SshReader(_unarmored(text), "the SSH signature")
    if reader.read(len(_MAGIC)) != _MAGIC:
        raise MalformedError("no-magic", "an SSH signature without the magic SSHSIG")
    if (version := reader.number(4)) != _VERSION:
        raise MalformedError(
            "unsupported-version", f"an SSH signature of unsupported version {version}; expected {_VERSION}"
        )
    key, namespace, _, algorithm, signature = (reader.string() for _ in range(5))
    reader.expect_end()
    if namespace != NAMESPACE.encode():
        raise MalformedError("other-namespace", f"an SSH signature for another namespace; sign with -n {NAMESPACE}")
    if algorithm != HASH.encode():
        raise MalformedError("other-hash", f"an SSH signature with another hash; sign with -O hashalg={HASH}")
    return key, signature


def shorten_signature(signature: bytes) -> bytes:
    """Return a signature (RFC 4253 section 6.6) as a raw one. MalformedError: it has no raw form."""
    reader = SshReader(signature, "the signature")
    kind, raw = reader.string().decode(errors="replace"), reader.string()
    reader.expect_end()
    if kind not in RAW_KINDS:
        raise MalformedError("no-raw-form", "a signature of a kind without a raw form")
    if kind != _ED25519:
        numbers = SshReader(raw, "the ecdsa signature")
        r, s = numbers.positive(canonical=False), numbers.positive(canonical=False)
        numbers.expect_end()
        raw = (r << 256 | s).to_bytes(RAW_SIGNATURE_BYTES) if max(r, s).bit_length() <= 256 else b""
    if len(raw) != RAW_SIGNATURE_BYTES:
        raise MalformedError("signature-size", "a signature of the wrong length")
    return raw


def expand_signature(kind: str, raw: bytes) -> bytes:
    """Return the form of RFC 4253 of a raw signature by a key. MalformedError: its kind makes no raw signatures."""
    if kind not in RAW_KINDS:
        raise MalformedError("no-raw-form", f"a raw signature, which a key of kind {kind} does not make")
    half = RAW_SIGNATURE_BYTES // 2
    if kind != _ED25519:
        raw = mpint(int.from_bytes(raw[:half])) + mpint(int.from_bytes(raw[half:]))
    return string(kind.encode()) + string(raw)


def _unarmored(text: str) -> bytes:
    lines = text.strip().splitlines()
    if len(lines) < 3 or lines[0] != _BEGIN or lines[-1] != _END:
        raise MalformedError("armor-mismatch", f"an SSH signature begins with {_BEGIN} and ends with {_END}")
    try:
        return base64.b64decode("".join(line.strip() for line in lines[1:-1]), validate=True)
    except (binascii.Error, ValueError):
        raise MalformedError("invalid-base64", "an SSH signature with invalid base64") from None
