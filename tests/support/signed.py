"""Signed knocks made by hand: every field as a test wants it, sent from any address of a host."""

from __future__ import annotations

import os
import socket
import time
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from doorward.lab.namespace import NamespaceHost
from doorward.model import Address
from doorward.signed.envelope import RANDOM_BYTES, plaintext_capacity, seal
from doorward.signed.message import (
    NONCE_BYTES,
    Request,
    pack_body,
    pack_plaintext,
    signed_text,
    signer_hash,
    target_hash,
)
from doorward.signed.server_key import SUITES, X25519, PrivateKey, Suite, generate_private_text, parse_private_key
from doorward.signed.ssh_keys import PublicKey, parse_public_key
from doorward.signed.ssh_wire import string
from doorward.signed.sshsig import signed_data

PORT = 62201
HAS_HYBRID = find_spec("cryptography.hazmat.primitives.hpke") is not None
SUITES_HERE = [suite for suite in SUITES.values() if suite is X25519 or HAS_HYBRID]


@dataclass
class Signer:
    """Somebody with an ed25519 key."""

    name: str = "laptop"
    secret: ed25519.Ed25519PrivateKey = field(default_factory=ed25519.Ed25519PrivateKey.generate)

    @property
    def line(self) -> str:
        """Return the line for authorized_keys."""
        text = self.secret.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
        return f"{text} {self.name}"

    @property
    def key(self) -> PublicKey:
        raw = self.secret.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        return parse_public_key(string(b"ssh-ed25519") + string(raw))

    def request(self, door: str = "ssh", gate: str = "", **fields: object) -> Request:
        """Fill in a request; `ahead_ms` moves its time."""
        ahead_ms = fields.pop("ahead_ms", 0)
        assert isinstance(ahead_ms, int)
        now_ms = round(time.time() * 1000)
        target, signer = target_hash(gate, door), signer_hash(self.key.blob)
        fresh = Request(now_ms + ahead_ms, os.urandom(NONCE_BYTES), target, signer)
        return fresh._replace(**fields)  # type: ignore[arg-type]

    def sign(self, server: PrivateKey, body: bytes) -> bytes:
        """Sign as the server's suite has it: raw, or in SSH's form."""
        raw = self.secret.sign(signed_data(signed_text(server.public.raw, body)))
        return raw if server.public.suite is X25519 else string(b"ssh-ed25519") + string(raw)

    def packet(self, server: PrivateKey, door: str = "ssh", **fields: object) -> bytes:
        """Make a packet for a server."""
        body = pack_body(self.request(door, **fields))  # type: ignore[arg-type]
        return sealed(server, body, self.sign(server, body))


def sealed(server: PrivateKey, body: bytes, signature: bytes, length: int = 0, certificate: bytes = b"") -> bytes:
    """Seal a body with anything in place of its signature, in the suite's shortest packet or one of this length."""
    suite = server.public.suite
    capacity = plaintext_capacity(suite, length or suite.lengths[0])
    return seal(server.public, pack_plaintext(body, signature, capacity, certificate), os.urandom(RANDOM_BYTES))


class Signed:
    """The files of a server that accepts signed knocks, in a directory."""

    def __init__(self, folder: Path, *signers: Signer, suite: Suite = X25519) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.key_file, self.keys_file = folder / "server.key", folder / "authorized_keys"
        self.server = self.new_key(suite)
        self.authorize(*(signer.line for signer in signers))

    def new_key(self, suite: Suite = X25519) -> PrivateKey:
        text = generate_private_text(suite)
        self.key_file.touch(0o600)
        self.key_file.write_text(text)
        self.server = parse_private_key(text)
        return self.server

    def authorize(self, *lines: str) -> None:
        """Replace who may knock, as an editor does."""
        new = self.keys_file.with_name("authorized_keys.new")
        new.write_text("".join(f"{line}\n" for line in lines))
        new.chmod(0o600)
        new.replace(self.keys_file)


def send(
    host: NamespaceHost, source: Address, to: Address, *packets: bytes, port: int = PORT, own_port: int = 0
) -> None:
    """Send datagrams from one of the host's addresses."""

    def go() -> None:
        family = socket.AF_INET if source.version == 4 else socket.AF_INET6
        with socket.socket(family, socket.SOCK_DGRAM) as sender:
            sender.bind((str(source), own_port))
            for packet in packets:
                sender.sendto(packet, (str(to), port))

    host.call(go)
