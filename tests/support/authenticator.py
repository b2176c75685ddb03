"""A security key in software: sk- keys, and signatures by them as PROTOCOL.u2f of OpenSSH has them."""

from __future__ import annotations

import base64
import hashlib
import struct

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from doorward.signed.ssh_wire import string
from doorward.signed.sshsig import signed_data

TOUCHED, VERIFIED = 1, 4


class Authenticator:
    """Holds one key of the kind "ed25519-sk" or "ecdsa-sk"; its counter goes up with each signature."""

    def __init__(self, kind: str = "ed25519-sk", application: str = "ssh:") -> None:
        self.application = application.encode()
        self.counter = 0
        self._key: ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey
        if kind == "ed25519-sk":
            self._key = ed25519.Ed25519PrivateKey.generate()
            raw = self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
            self.kind, public = "sk-ssh-ed25519@openssh.com", string(raw)
        else:
            self._key = ec.generate_private_key(ec.SECP256R1())
            point = self._key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
            self.kind, public = "sk-ecdsa-sha2-nistp256@openssh.com", string(b"nistp256") + string(point)
        self.blob = string(self.kind.encode()) + public + string(self.application)

    @property
    def line(self) -> str:
        """The public key as a line of a file."""
        return f"{self.kind} {base64.b64encode(self.blob).decode()} in software"

    def sign(self, text: bytes, flags: int = TOUCHED) -> bytes:
        """Sign a text as SSHSIG wraps it; gives the signature's blob."""
        return self.sign_data(signed_data(text), flags)

    def sign_data(self, data: bytes, flags: int = TOUCHED) -> bytes:
        """Sign the data itself."""
        self.counter += 1
        state = struct.pack("!BI", flags, self.counter)
        whole = hashlib.sha256(self.application).digest() + state + hashlib.sha256(data).digest()
        return string(self.kind.encode()) + string(self._raw(whole)) + state

    def _raw(self, whole: bytes) -> bytes:
        if isinstance(self._key, ed25519.Ed25519PrivateKey):
            return self._key.sign(whole)
        r, s = decode_dss_signature(self._key.sign(whole, ec.ECDSA(hashes.SHA256())))
        return mpint(r) + mpint(s)


def mpint(number: int) -> bytes:
    """Write a number that is not negative as RFC 4251 does."""
    return string(number.to_bytes(number.bit_length() // 8 + 1) if number else b"")


def armored(key: bytes, signature: bytes) -> str:
    """Write what `ssh-keygen -Y sign` prints of a signature."""
    parts = (key, b"doorward", b"", b"sha512", signature)
    raw = b"SSHSIG" + (1).to_bytes(4) + b"".join(map(string, parts))
    body = base64.encodebytes(raw).decode()
    return f"-----BEGIN SSH SIGNATURE-----\n{body}-----END SSH SIGNATURE-----\n"
