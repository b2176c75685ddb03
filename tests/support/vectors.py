"""The examples of docs/reference/signed-knock.md, and fresh ones by the real ssh-keygen and by a security key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from doorward.signed.message import CERTIFICATE, Request, pack_body, signed_text, signer_hash, target_hash
from doorward.signed.server_key import HYBRID, X25519, PrivateKey
from doorward.signed.sshsig import shorten_signature
from tests.support import ssh_keygen
from tests.support.authenticator import Authenticator
from tests.support.signed import sealed

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "docs" / "reference" / "signed-knock-vectors.json").read_text()
)
SERVER = PrivateKey(X25519, bytes.fromhex(VECTORS["server"]["private"]))
TIME_MS = 1_800_000_000_123
RAW = ("ed25519", "ecdsa256")  # kinds whose signatures are raw in a packet for x25519
KINDS = (*ssh_keygen.KINDS, "ed25519-sk", "ecdsa-sk", "certificate")
HYBRID_KINDS = ("ed25519", "ecdsa256", "ecdsa384", "ed25519-sk", "ecdsa-sk")


class Example(NamedTuple):
    """A packet, and the line of authorized_keys that lets it in."""

    line: str
    packet: bytes


def request(signed_by: bytes, **fields: Any) -> Request:
    """Fill in a request of a signer, by its key or certificate."""
    fresh = Request(TIME_MS, bytes(range(8)), target_hash("", "ssh"), signer_hash(signed_by))
    return fresh._replace(**fields)


def fresh(kind: str, server: PrivateKey = SERVER, **fields: Any) -> Example:
    """Make a packet with a signature of this kind."""
    if kind.endswith("-sk"):
        token = Authenticator(kind)
        body = pack_body(request(token.blob, **fields))
        return _example(server, kind, token.line, body, token.sign(signed_text(server.public.raw, body)))
    key = ssh_keygen.key("ed25519" if kind == "certificate" else kind)
    line = ssh_keygen.public_line(key)
    certificate = b""
    if kind == "certificate":
        authority = ssh_keygen.key("ed25519", 1)
        certificate = ssh_keygen.certify(authority, line, "-n", "alice")
        line = f'cert-authority,principals="alice" {ssh_keygen.public_line(authority)}'
        fields["flags"] = fields.get("flags", 0) | CERTIFICATE
    body = pack_body(request(certificate or ssh_keygen.blob(line), **fields))
    signature = ssh_keygen.signature(key, signed_text(server.public.raw, body))
    return _example(server, kind, line, body, signature, certificate)


def _example(
    server: PrivateKey, kind: str, line: str, body: bytes, signature: bytes, certificate: bytes = b""
) -> Example:
    if server.public.suite is HYBRID:
        return Example(line, sealed(server, body, signature))
    if kind in RAW:
        return Example(line, sealed(server, body, shorten_signature(signature)))
    length = 1368 if kind in ("rsa3072", "certificate") else 448
    return Example(line, sealed(server, body, signature, length, certificate))
