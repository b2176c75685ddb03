"""Debian's fwknop client, and packets made by hand."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from doorward.fwknop.spa_packet import PREFIX


def unpadded(raw: bytes) -> str:
    return base64.b64encode(raw).decode().rstrip("=")


def _setting(name: str, key: bytes) -> str:
    return f"{name} {key.decode()}" if key.isalnum() else f"{name}_BASE64 {base64.b64encode(key).decode()}"


class Keys(NamedTuple):
    """What a client and a stanza share."""

    key: bytes
    hmac: bytes | None = None
    digest: str = "sha256"

    @classmethod
    def random(cls, digest: str = "sha256") -> Keys:
        return cls(os.urandom(32), os.urandom(64), digest)

    def stanza(self, *lines: str, source: str = "ANY") -> str:
        """Return a stanza of access.conf, with keys as they are if they are words."""
        own = [_setting("KEY", self.key)]
        if self.hmac is not None:
            own.append(_setting("HMAC_KEY", self.hmac))
            own.append(f"HMAC_DIGEST_TYPE {self.digest.upper()}")
        return "\n".join([f"SOURCE {source}", *own, *lines]) + "\n"

    def line(self, name: str) -> str:
        """Return a line of fwknop.keys."""
        keys = [base64.b64encode(key).decode() for key in (self.key, self.hmac) if key is not None]
        return " ".join([name, *keys]) + "\n"

    def by_client(self, *options: object, server: object = "192.0.2.1") -> bytes:
        """Have the client make a packet."""
        with tempfile.TemporaryDirectory(prefix="doorward-test-") as folder:
            saved = Path(folder, "packet")
            words = ["--test", "--save-packet", saved, "--destination", server, *options]
            words += ["--key-base64-rijndael", base64.b64encode(self.key).decode()]
            if self.hmac is not None:
                words += ["--use-hmac", "--key-base64-hmac", base64.b64encode(self.hmac).decode()]
                words += ["--hmac-digest-type", self.digest]
            words += ["--no-rc-file", "--no-home-dir", "--no-save-args", "--save-args-file", Path(folder, "args")]
            subprocess.run(["fwknop", *map(str, words)], check=True, stdout=subprocess.DEVNULL)
            return saved.read_bytes().strip()

    def sealed(self, fields: str, *, digest: str | None = None, salt: bytes | None = None) -> bytes:
        """Return the sealed bytes with these fields, and their digest unless it is given."""
        text = f"{fields}:{unpadded(hashlib.sha256(fields.encode()).digest()) if digest is None else digest}".encode()
        padding = 16 - len(text) % 16
        own = os.urandom(8) if salt is None else salt
        derived = last = b""
        while len(derived) < 48:
            last = hashlib.md5(last + self.key + own).digest()  # noqa: S324 (the protocol's)
            derived += last
        encryptor = Cipher(algorithms.AES(derived[:32]), modes.CBC(derived[32:])).encryptor()
        return b"Salted__" + own + encryptor.update(text + bytes([padding]) * padding) + encryptor.finalize()

    def packet(self, sealed: bytes) -> bytes:
        """Return the packet with these sealed bytes."""
        text = unpadded(sealed).encode()
        assert text.startswith(PREFIX)
        tag = b"" if self.hmac is None else unpadded(hmac.digest(self.hmac, text, self.digest)).encode()
        return text[len(PREFIX) :] + tag

    def request(self, message: str, *more: str, time_s: float, kind: int = 1, user: str = "alice") -> bytes:
        """Return a packet with these fields: `message` before its base64, `more` as it is."""
        return self.packet(self.sealed(fields(message, *more, kind=kind, user=user, time_s=time_s)))


def fields(message: str, *more: str, kind: int = 1, user: str = "alice", time_s: float = 0.0) -> str:
    """Return the fields before the digest."""
    random = "".join(str(byte % 10) for byte in os.urandom(16))
    name, text = (unpadded(word.encode()) for word in (user, message))
    return ":".join([random, name, str(int(time_s)), "3.0.0", str(kind), text, *more])
