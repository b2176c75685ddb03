"""Read key files as ssh-keygen writes them: the public key without the passphrase, and signing."""

from __future__ import annotations

import base64
import binascii
import os
import stat
from collections.abc import Callable
from typing import TYPE_CHECKING

from doorward.client.user_files import open_file, rights_of_others, user_id
from doorward.errors import HostError, MalformedError, NegativeResult, UsageError
from doorward.libraries import install_command
from doorward.signed.ssh_wire import SshReader, mpint, string

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

    Key = Ed25519PrivateKey | RSAPrivateKey | EllipticCurvePrivateKey

_MAX_BYTES = 1 << 20  # key files have a few thousand at most
_BEGIN = b"-----BEGIN "
_OPENSSH = b"-----BEGIN OPENSSH PRIVATE KEY-----"
_MAGIC = b"openssh-key-v1\0"
_ED25519, _ED25519_BYTES = b"ssh-ed25519", 32
_TRIES = 3  # as ssh
_LONGEST_KIND = 64  # RFC 4251's limit for algorithm names
_CURVES = {  # by their SEC names: RFC 5656's name, and the hash that goes with the curve
    "secp256r1": ("nistp256", "SHA256"),
    "secp384r1": ("nistp384", "SHA384"),
    "secp521r1": ("nistp521", "SHA512"),
}


def read(path: str) -> bytes:
    """Return the contents of a key file; UsageError: unreadable, or a private key that others can read."""
    try:
        descriptor = open_file(path)
    except OSError as error:
        remedy = "check the path, or make a key with `ssh-keygen`"
        raise UsageError("unreadable-file", f"{path}: {error.strerror or 'cannot be read'}; {remedy}") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise UsageError("not-regular-file", f"{path}: not a regular file; use a key file")
        raw = os.read(descriptor, _MAX_BYTES)
    finally:
        os.close(descriptor)
    if is_private(raw) and status.st_uid == user_id() and rights_of_others(status):
        raise UsageError("readable-by-others", f"{path}: other users can read this private key; run `chmod 600 {path}`")
    return raw


def is_private(raw: bytes) -> bool:
    """Return whether these are the contents of a private key file."""
    return raw.lstrip().startswith(_BEGIN)


def parse_public_line(raw: bytes, path: str) -> tuple[bytes, str]:
    """Return blob and comment of a public key or certificate file, `KIND BASE64 COMMENT`."""
    words = raw.split(None, 2)
    try:
        blob = base64.b64decode(words[1], validate=True)
        if key_kind(blob).encode() == words[0]:
            return blob, words[2].decode(errors="replace").strip() if len(words) > 2 else ""
    except (IndexError, binascii.Error):
        pass
    raise UsageError(
        "not-a-public-key", f"{path}: not a key; a public key is one line such as `ssh-ed25519 AAAA… comment`"
    )


def public_blob(path: str, raw: bytes) -> bytes | None:
    """Return the public key blob of a private key file, or of FILE.pub; None if only decrypting would show it.

    OpenSSH's own format has the public key in the clear, others do not.
    """
    try:
        reader = _openssh(raw)
        for _ in range(3):  # the cipher, and the key derivation
            reader.string()
        return reader.string() if reader.number(4) == 1 else None
    except MalformedError:
        pass
    try:
        return parse_public_line(read(f"{path}.pub"), path)[0]
    except UsageError:
        return None


def is_encrypted(raw: bytes) -> bool:
    """Return whether a private key needs a passphrase."""
    try:
        return _openssh(raw).string() != b"none"
    except MalformedError:
        return b"ENCRYPTED" in raw


def key_kind(blob: bytes) -> str:
    """Return the kind named in a key, certificate or signature; "" if there is no printable one."""
    try:
        kind = SshReader(blob, "the key").string()
    except MalformedError:
        return ""
    return kind.decode() if len(kind) <= _LONGEST_KIND and kind.isascii() and kind.decode().isprintable() else ""


class PrivateKeyFile:
    """A private key, ready to sign. Has no revealing repr."""

    def __init__(self, key: Key, blob: bytes) -> None:
        self.blob = blob
        self._key = key

    def sign(self, data: bytes) -> bytes:
        """Return the signature over `data` (RFC 4253 section 6.6; RFC 8332, RFC 5656)."""
        from cryptography.hazmat.primitives.asymmetric import ed25519

        if isinstance(self._key, ed25519.Ed25519PrivateKey):
            return string(_ED25519) + string(self._key.sign(data))
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import padding, rsa

        if isinstance(self._key, rsa.RSAPrivateKey):
            return string(b"rsa-sha2-512") + string(self._key.sign(data, padding.PKCS1v15(), hashes.SHA512()))
        return _sign_ecdsa(self._key, data)


def load(raw: bytes, path: str, ask: Callable[[str], bytes]) -> PrivateKeyFile:
    """Load a private key; `ask` returns the passphrase if it needs one. NegativeResult: never the right one."""
    if not is_encrypted(raw):
        return _plain_ed25519(raw) or _load(raw, None, path)
    for _ in range(_TRIES):
        if not (passphrase := ask(path)):
            break
        try:
            return _load(raw, passphrase, path)
        except WrongPassphraseError:
            continue
    raise NegativeResult("wrong-passphrase", f"{path}: wrong passphrase; try again, or run `ssh-add {path}`")


class WrongPassphraseError(MalformedError):
    """The passphrase does not decrypt the key."""


def _plain_ed25519(raw: bytes) -> PrivateKeyFile | None:
    """Return the key of the usual file, ed25519 in OpenSSH's format without a passphrase; None: another kind of file.

    The loaders of `cryptography` have to be imported first, which takes longer than the rest of a knock (20 ms).
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    try:
        reader = _openssh(raw)
        header = [reader.string() for _ in range(3)], reader.number(4)
        blob, private = reader.string(), SshReader(reader.string(), "the key")
        is_intact = private.read(4) == private.read(4)
        if header != ([b"none", b"none", b""], 1) or not is_intact or private.string() != _ED25519:
            return None
        public, secret = private.string(), private.string()
    except MalformedError:
        return None
    seed = secret.removesuffix(public)
    if len(public) != _ED25519_BYTES or len(seed) != _ED25519_BYTES or blob != string(_ED25519) + string(public):
        return None
    return PrivateKeyFile(Ed25519PrivateKey.from_private_bytes(seed), blob)


def _load(raw: bytes, passphrase: bytes | None, path: str) -> PrivateKeyFile:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    is_openssh = raw.lstrip().startswith(_OPENSSH)
    loader = serialization.load_ssh_private_key if is_openssh else serialization.load_pem_private_key
    try:
        try:
            # Validating an RSA key takes 110 ms and protects against untrusted keys; anyone who can alter this one
            # has it.
            key = loader(raw, passphrase, unsafe_skip_rsa_key_validation=True)
        except TypeError:  # an older `cryptography` does not know the option; another fault is found again
            key = loader(raw, passphrase)
    except UnsupportedAlgorithm as error:
        remedy = f"run `ssh-add {path}`, or make a key with `ssh-keygen -t ed25519`"
        if "bcrypt" in str(error):
            remedy = f"run `{install_command('bcrypt')}`, or `ssh-add {path}`"
            raise HostError("no-bcrypt", f"{path}: a key with a passphrase needs bcrypt; {remedy}") from None
        raise HostError("unknown-key-kind", f"{path}: unknown key kind or cipher; {remedy}") from None
    except (ValueError, TypeError):
        if passphrase is None:
            raise UsageError(
                "not-a-private-key", f"{path}: not a private key, or damaged; use another with --identity FILE"
            ) from None
        raise WrongPassphraseError("wrong-passphrase", path) from None
    is_known_curve = isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in _CURVES
    if isinstance(key, ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey) or is_known_curve:
        line = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
        return PrivateKeyFile(key, base64.b64decode(line.split()[1]))  # type: ignore[arg-type] # not narrowed to a curve
    raise UsageError("unsupported-key-kind", f"{path}: unsupported kind of key; make one with `ssh-keygen -t ed25519`")


def _openssh(raw: bytes) -> SshReader:
    """Return a reader of a private key in OpenSSH's format (PROTOCOL.key). MalformedError: another format."""
    encoded = b"".join(raw.split()).removeprefix(_OPENSSH.replace(b" ", b""))
    try:
        body = base64.b64decode(encoded.split(b"-")[0], validate=True)
    except binascii.Error:
        raise MalformedError("not-base64", "not base64") from None
    if not body.startswith(_MAGIC):
        raise MalformedError("not-openssh-format", "not in OpenSSH's format")
    return SshReader(body.removeprefix(_MAGIC), "the key")


def _sign_ecdsa(key: EllipticCurvePrivateKey, data: bytes) -> bytes:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, utils

    name, hashed = _CURVES[key.curve.name]
    r, s = utils.decode_dss_signature(key.sign(data, ec.ECDSA(getattr(hashes, hashed)())))
    return string(f"ecdsa-sha2-{name}".encode()) + string(mpint(r) + mpint(s))
