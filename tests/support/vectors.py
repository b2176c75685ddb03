"""Makes the examples of docs/reference/signed-knock.md anew: `python -m tests.support.vectors > FILE`.

By the real ssh-keygen, and by a security key in software; sealing is random, so packets differ each time.
"""

from __future__ import annotations

import base64
import json
import sys
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

from doorward.signed.envelope import check_key, plaintext_capacity, seal
from doorward.signed.message import Request, pack_body, pack_plaintext, signed_text
from doorward.signed.server_key import HYBRID, X25519, PrivateKey, Suite
from doorward.signed.ssh_keys import parse_public_key
from doorward.signed.sshsig import signed_data
from tests.support import ssh_keygen
from tests.support.authenticator import Authenticator

VECTORS = Path(__file__).parents[2] / "docs" / "reference" / "signed-knock-vectors.json"
TIME_MS = 1_800_000_000_123
SOURCE = "192.0.2.7"
SEEDS = {X25519.name: bytes(range(32)), HYBRID.name: bytes(range(96))}


def main() -> None:
    """Print them."""
    servers = [PrivateKey(suite, SEEDS[suite.name]) for suite in (X25519, HYBRID)]
    vectors = {
        "servers": [_server(server) for server in servers],
        "packets": [*_by_kind(servers[0]), *_by_request(servers[0]), *_hybrid(servers[1])],
    }
    json.dump(vectors, sys.stdout, indent=1)
    sys.stdout.write("\n")


def _server(server: PrivateKey) -> dict[str, str]:
    return {
        "suite": server.suite.name,
        "private": SEEDS[server.suite.name].hex(),
        "public": str(server.public),
        "fingerprint": server.public.fingerprint,
        "check_key": check_key(server.public).hex(),
    }


def _request(blob: bytes, **fields: Any) -> Request:
    fresh = Request(TIME_MS, bytes(range(100, 116)), "ssh", None, None, "", parse_public_key(blob).fingerprint)
    return fresh._replace(**fields)


def _by_kind(server: PrivateKey) -> list[dict[str, Any]]:
    packets = []
    for kind in ssh_keygen.KINDS:
        key = ssh_keygen.key(kind)
        line = ssh_keygen.public_line(key)
        body = pack_body(_request(ssh_keygen.blob(line)))
        signature = ssh_keygen.signature(key, signed_text(server.public.raw, body))
        packets.append(_packet(server, f"signed by {kind}", line, body, signature, is_long=kind.startswith("rsa")))
    for kind in ("ed25519-sk", "ecdsa-sk"):
        token = Authenticator(kind)
        body = pack_body(_request(token.blob))
        signature = token.sign(signed_text(server.public.raw, body))
        packets.append(_packet(server, f"signed by {kind}, touched", token.line, body, signature))
    authority, user = ssh_keygen.key("ed25519", 1), ssh_keygen.key("ed25519")
    certificate = ssh_keygen.certify(authority, ssh_keygen.public_line(user), "-n", "alice")
    body = pack_body(_request(ssh_keygen.blob(ssh_keygen.public_line(user)), signer=certificate, is_certificate=True))
    signature = ssh_keygen.signature(user, signed_text(server.public.raw, body))
    line = f'cert-authority,principals="alice" {ssh_keygen.public_line(authority)}'
    return [*packets, _packet(server, "signed by the key of a certificate", line, body, signature, is_long=True)]


def _by_request(server: PrivateKey) -> list[dict[str, Any]]:
    key = ssh_keygen.key("ed25519")
    line = ssh_keygen.public_line(key)
    wishes: dict[str, dict[str, Any]] = {
        "names the address that it comes from": {"asked": ip_address(SOURCE)},
        "asks for an IPv6 network": {"asked": ip_network("2001:db8:7::/48")},
        "wants a time, of a gate with a name": {"for_s": 90, "gate": "edge-1"},
    }
    packets = []
    for name, wish in wishes.items():
        body = pack_body(_request(ssh_keygen.blob(line), **wish))
        signature = ssh_keygen.signature(key, signed_text(server.public.raw, body))
        packets.append(_packet(server, name, f'addresses="2001:db8::/32" {line}', body, signature))
    return packets


def _hybrid(server: PrivateKey) -> list[dict[str, Any]]:
    key = ssh_keygen.key("ed25519")
    line = ssh_keygen.public_line(key)
    body = pack_body(_request(ssh_keygen.blob(line)))
    signature = ssh_keygen.signature(key, signed_text(server.public.raw, body))
    return [_packet(server, "sealed with the hybrid", line, body, signature)]


def _packet(
    server: PrivateKey, name: str, line: str, body: bytes, signature: bytes, *, is_long: bool = False
) -> dict[str, Any]:
    suite: Suite = server.suite
    length = suite.long_bytes if is_long else suite.short_bytes
    plaintext = pack_plaintext(body, signature, plaintext_capacity(suite, length))
    text = signed_text(server.public.raw, body)
    return {
        "name": name,
        "suite": suite.name,
        "authorized_keys": line,
        "time_ms": TIME_MS,
        "source": SOURCE,
        "body": body.hex(),
        "text": text.hex(),
        "data": signed_data(text).hex(),
        "signature": signature.hex(),
        "plaintext": plaintext.hex(),
        "packet": base64.b64encode(seal(server.public, plaintext)).decode(),
    }


if __name__ == "__main__":
    main()
