"""SSHSIG: SSH signatures outside a session (OpenSSH's PROTOCOL.sshsig), and the output of `ssh-keygen -Y sign`.

The signed blob names the purpose, so a signature for doorward is not valid for a file, a commit or a login, and vice
versa.
"""

from __future__ import annotations

import base64
import binascii
import hashlib

from doorward.errors import MalformedError
from doorward.signed.ssh_wire import SshReader, string

NAMESPACE = "doorward"
HASH = "sha512"
_MAGIC = b"SSHSIG"
_VERSION = 1
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


def _unarmored(text: str) -> bytes:
    lines = text.strip().splitlines()
    if len(lines) < 3 or lines[0] != _BEGIN or lines[-1] != _END:
        raise MalformedError("armor-mismatch", f"an SSH signature begins with {_BEGIN} and ends with {_END}")
    try:
        return base64.b64decode("".join(line.strip() for line in lines[1:-1]), validate=True)
    except (binascii.Error, ValueError):
        raise MalformedError("invalid-base64", "an SSH signature with invalid base64") from None
