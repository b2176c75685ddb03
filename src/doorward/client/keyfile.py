"""Keys in files, as ssh-keygen writes them: the public half without the passphrase, and signatures."""

from __future__ import annotations

import base64
import binascii
import os
import stat
from collections.abc import Callable
from typing import TYPE_CHECKING

from doorward.errors import HostError, MalformedError, NegativeResult, UsageError
from doorward.signed.ssh_wire import SshReader, string

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

    Key = Ed25519PrivateKey | RSAPrivateKey | EllipticCurvePrivateKey

_MAX_BYTES = 1 << 20  # a file of a key has at most a few thousand
_BEGIN = b"-----BEGIN "
_OPENSSH = b"-----BEGIN OPENSSH PRIVATE KEY-----"
_MAGIC = b"openssh-key-v1\0"
_TRIES = 3  # as ssh asks
_LONGEST_KIND = 64  # as RFC 4251 bounds the names of algorithms
_CURVES = {  # by their SEC names: RFC 5656's name, and the hash that goes with the curve
    "secp256r1": ("nistp256", "SHA256"),
    "secp384r1": ("nistp384", "SHA384"),
    "secp521r1": ("nistp521", "SHA512"),
}


def read(path: str) -> bytes:
    """Give the bytes of a key file; UsageError: there is none to be read, or others can read a private key."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe must not stop us
    except OSError as error:
        remedy = "name the right file, or make a key with `ssh-keygen`"
        raise UsageError(f"{path}: {error.strerror or 'cannot be read'}; {remedy}") from None
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise UsageError(f"{path}: is no regular file; name the file of a key")
        raw = os.read(descriptor, _MAX_BYTES)
    finally:
        os.close(descriptor)
    if is_private(raw) and found.st_uid == os.geteuid() and found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise UsageError(f"{path}: other users can read this private key; run `chmod 600 {path}`")
    return raw


def is_private(raw: bytes) -> bool:
    """Tell a private key's file from a public one's."""
    return raw.lstrip().startswith(_BEGIN)


def public_line(raw: bytes, path: str) -> tuple[bytes, str]:
    """Read the file of a public key or a certificate: `KIND BASE64 COMMENT`; gives its blob and its comment."""
    words = raw.split(None, 2)
    try:
        blob = base64.b64decode(words[1], validate=True)
        if key_kind(blob).encode() == words[0]:
            return blob, words[2].decode(errors="replace").strip() if len(words) > 2 else ""
    except (IndexError, binascii.Error):
        pass
    raise UsageError(f"{path}: is no key; a public key is one line such as `ssh-ed25519 AAAA… comment`")


def public_half(path: str, raw: bytes) -> bytes | None:
    """Give the blob of a private key's public half: from its file, or from FILE.pub; None: only the key itself tells.

    OpenSSH's own format has it in the clear, others have not.
    """
    try:
        reader = _openssh(raw)
        for _ in range(3):  # the cipher, and how the passphrase becomes its key
            reader.string()
        return reader.string() if reader.number(4) == 1 else None
    except MalformedError:
        pass
    try:
        return public_line(read(f"{path}.pub"), path)[0]
    except UsageError:
        return None


def is_encrypted(raw: bytes) -> bool:
    """Tell whether a private key needs a passphrase."""
    try:
        return _openssh(raw).string() != b"none"
    except MalformedError:
        return b"ENCRYPTED" in raw


def key_kind(blob: bytes) -> str:
    """Give the kind that a key, certificate or signature names; "" where it names none that could be shown."""
    try:
        kind = SshReader(blob, "the key").string()
    except MalformedError:
        return ""
    return kind.decode() if len(kind) <= _LONGEST_KIND and kind.isascii() and kind.decode().isprintable() else ""


class PrivateKeyFile:
    """A private key, ready to sign. It does not print itself."""

    def __init__(self, key: Key) -> None:
        from cryptography.hazmat.primitives import serialization

        line = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
        self.blob = base64.b64decode(line.split()[1])
        self._key = key

    def sign(self, data: bytes) -> bytes:
        """Give the signature (RFC 4253 section 6.6; RFC 8332, RFC 5656)."""
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ed25519, padding, rsa

        if isinstance(self._key, ed25519.Ed25519PrivateKey):
            return string(b"ssh-ed25519") + string(self._key.sign(data))
        if isinstance(self._key, rsa.RSAPrivateKey):
            return string(b"rsa-sha2-512") + string(self._key.sign(data, padding.PKCS1v15(), hashes.SHA512()))
        return _sign_ecdsa(self._key, data)


def load(raw: bytes, path: str, ask: Callable[[str], bytes]) -> PrivateKeyFile:
    """Load a private key; `ask` gives the passphrase where there is one. AnswerNo: it was never the right one."""
    if not is_encrypted(raw):
        return PrivateKeyFile(_load(raw, None, path))
    for _ in range(_TRIES):
        if not (passphrase := ask(path)):
            break
        try:
            return PrivateKeyFile(_load(raw, passphrase, path))
        except WrongPassphraseError:
            continue
    raise NegativeResult(f"{path}: the passphrase is not right; try again, or `ssh-add {path}` and the agent signs")


class WrongPassphraseError(MalformedError):
    """With this passphrase there is no key in the file."""


def _load(raw: bytes, passphrase: bytes | None, path: str) -> Key:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    is_openssh = raw.lstrip().startswith(_OPENSSH)
    loader = serialization.load_ssh_private_key if is_openssh else serialization.load_pem_private_key
    try:
        # The check of an rsa key takes 110 ms. It is for keys from elsewhere; who can change this file has the key.
        key = loader(raw, passphrase, unsafe_skip_rsa_key_validation=True)
    except UnsupportedAlgorithm:
        remedy = f"`ssh-add {path}`, and the agent signs, or make a key with `ssh-keygen -t ed25519`"
        raise HostError(f"{path}: its kind or cipher is not known here; {remedy}") from None
    except (ValueError, TypeError):
        if passphrase is None:
            raise UsageError(f"{path}: is no private key, or damaged; name another with --identity FILE") from None
        raise WrongPassphraseError(path) from None
    is_known_curve = isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in _CURVES
    if isinstance(key, ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey) or is_known_curve:
        return key  # type: ignore[return-value] # mypy does not follow is_known_curve
    raise UsageError(f"{path}: a key of this kind is not taken; make one with `ssh-keygen -t ed25519`")


def _openssh(raw: bytes) -> SshReader:
    """Give what stands in a private key's file in OpenSSH's format (PROTOCOL.key). MalformedError: another format."""
    encoded = b"".join(raw.split()).removeprefix(_OPENSSH.replace(b" ", b""))
    try:
        body = base64.b64decode(encoded.split(b"-")[0], validate=True)
    except binascii.Error:
        raise MalformedError("it is not base64") from None
    if not body.startswith(_MAGIC):
        raise MalformedError("it is not in OpenSSH's format")
    return SshReader(body.removeprefix(_MAGIC), "the key")


def _sign_ecdsa(key: EllipticCurvePrivateKey, data: bytes) -> bytes:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, utils

    name, hashed = _CURVES[key.curve.name]
    r, s = utils.decode_dss_signature(key.sign(data, ec.ECDSA(getattr(hashes, hashed)())))
    return string(f"ecdsa-sha2-{name}".encode()) + string(_mpint(r) + _mpint(s))


def _mpint(value: int) -> bytes:
    return string(value.to_bytes(value.bit_length() // 8 + 1))  # a first bit that is set would mean a negative number
