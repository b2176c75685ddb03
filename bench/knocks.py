"""Packets of signed knocks, sealed beforehand, and the files of the server that takes them."""

from __future__ import annotations

import itertools
import os
import time
from base64 import b64encode
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from bench.fwknop import Secret
from doorward.signed.envelope import CHECK_BYTES, RANDOM_BYTES, check, keyed_check, seal
from doorward.signed.message import (
    NONCE_BYTES,
    RAW_BYTES,
    Request,
    pack_body,
    signed_text,
    signer_hash,
    target_hash,
)
from doorward.signed.server_key import X25519, generate_private_text, parse_private_key
from doorward.signed.ssh_wire import string
from doorward.signed.sshsig import signed_data
from tests.support.stun import stun_request

PORT = 62201
DOOR = "ssh"
KIND = b"ssh-ed25519"
CONFIGURATION = f"""[gate]
mode = "stealth"

[signed]
port = "{PORT}/udp"

[doors.{DOOR}]
opens = ["22/tcp"]
for = "60s"
"""


SIGNERS = 100  # in turn: a key may have 256 openings at a time, and these are 20,000


class Keys:
    """A server's key, and the keys of those who knock in turn; the server may also take knocks from browsers."""

    def __init__(self, *, browser: bool = False) -> None:
        self._configuration = CONFIGURATION.replace("[signed]", f"[signed]\nbrowser = {str(browser).lower()}")
        self._server_text = generate_private_text(X25519)
        self.server = parse_private_key(self._server_text).public
        self._signers = [Ed25519PrivateKey.generate() for _ in range(SIGNERS)]
        self._turns = itertools.cycle((signer, _blob(signer)) for signer in self._signers)
        self._checked_by = keyed_check(self.server)

    def write(self, folder: Path, authorized: int = SIGNERS) -> None:
        """Write what the daemon reads; of so many authorized keys the signers' are the last."""
        (folder / "doorward.toml").write_text(self._configuration)
        key = folder / "server.key"
        key.touch(0o600)
        key.write_text(self._server_text)
        others = (Ed25519PrivateKey.generate() for _ in range(authorized - SIGNERS))
        blobs = map(_blob, (*others, *self._signers))
        lines = [f"{KIND.decode()} {b64encode(blob).decode()} key{n}\n" for n, blob in enumerate(blobs)]
        (folder / "authorized_keys").write_text("".join(lines))

    def packet(self) -> bytes:
        """Make a packet for the door, for whatever address it comes from; good from now on."""
        private, blob = next(self._turns)
        nonce, now_ms = os.urandom(NONCE_BYTES), time.time_ns() // 1_000_000
        body = pack_body(Request(now_ms, nonce, target_hash("", DOOR), signer_hash(blob)))
        signature = private.sign(signed_data(signed_text(self.server.raw, body)))
        return seal(self.server, body + signature, os.urandom(RANDOM_BYTES))

    def packets(self, count: int) -> list[bytes]:
        """Make so many; a thousand take a quarter of a second."""
        return [self.packet() for _ in range(count)]

    def checked(self, count: int) -> list[bytes]:
        """Make garbage with a right check: what who knows the server's public key can send, and has no key."""
        sealed = garbage(count, RAW_BYTES - CHECK_BYTES)
        return [check(self._checked_by, each) + each for each in sealed]


class FwknopKeys(Keys):
    """The same, and stanzas of fwknop's beside them."""

    def __init__(self, shared: list[Secret]) -> None:
        super().__init__()
        self._shared = shared

    def write(self, folder: Path, authorized: int = SIGNERS) -> None:
        """Write what the daemon reads."""
        super().write(folder, authorized)
        with (folder / "doorward.toml").open("a") as file:
            file.write("[fwknop]\n")
            file.writelines(f'[fwknop.stanzas.s{n}]\ndoors = ["{DOOR}"]\n' for n in range(len(self._shared)))
        keys = folder / "fwknop.keys"
        keys.touch(0o600)
        keys.write_text("".join(f"s{n} {key} {hmac}\n" for n, (key, hmac) in enumerate(self._shared)))


def garbage(count: int, size: int = RAW_BYTES) -> list[bytes]:
    """Make random bytes of a packet's length."""
    return [os.urandom(size) for _ in range(count)]


def in_frames(packets: list[bytes]) -> list[bytes]:
    """Put each into a STUN frame, as browsers do, all of one length."""
    return [stun_request(packet, b"abcd", bytes(12), b"guessed") for packet in packets]


def _blob(key: Ed25519PrivateKey) -> bytes:
    return string(KIND) + string(key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))
