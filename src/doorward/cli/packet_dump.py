"""`doorward knock --dump`: the fields of a signed knock before it is sealed, as text or JSON."""

from __future__ import annotations

from datetime import UTC, datetime

from doorward.client.keyfile import key_kind
from doorward.client.signed import KnockRequest, SentPacket
from doorward.client.signers import Signer
from doorward.escape import json_line
from doorward.signed.message import VERSION, signed_text
from doorward.signed.ssh_keys import parse_public_key
from doorward.signed.ssh_wire import fingerprint_text


def describe(knock: KnockRequest, signer: Signer, sent: SentPacket) -> list[str]:
    """Return the fields as lines of text."""
    request, signature = sent.message.request, sent.message.signature
    moment = datetime.fromtimestamp(request.time_ms / 1000, UTC)
    rows = {
        "sealed to": f"server key {knock.key.fingerprint} ({knock.key.suite.name})",
        "version": str(VERSION),
        "time": f"{request.time_ms} ms ({moment:%Y-%m-%d %H:%M:%S}.{request.time_ms % 1000:03} UTC)",
        "nonce": request.nonce.hex(),
        "door": request.door,
        "for": "the door's own duration" if request.for_s is None else f"{request.for_s} s",
        "address": "where the packet comes from" if request.asked is None else str(request.asked),
        "gate": request.gate or f"{knock.key.fingerprint} (none named: its key's fingerprint)",
        "signed by": f"{signer.kind} {_fingerprint(signer)}, {signer.name}",
        **(
            {"certificate": f"{len(request.signer)} bytes, {key_kind(request.signer)}"}
            if request.is_certificate
            else {}
        ),
        "signature": f"{key_kind(signature)}, {len(signature)} bytes: {signature.hex()}",
    }
    lines = (f"  {name:<12} {value}" for name, value in rows.items())
    return [f"{sent.message.length} bytes to {sent.target} {sent.port}, not sent", *lines]


def describe_json(knock: KnockRequest, signer: Signer, sent: SentPacket) -> list[str]:
    """Return the fields as one line of JSON, bytes in hexadecimal."""
    request, message = sent.message.request, sent.message
    fields = {
        "to": str(sent.target),
        "port": str(sent.port),
        "packet_bytes": message.length,
        "server_key": str(knock.key),
        "server_key_fingerprint": knock.key.fingerprint,
        "version": VERSION,
        "time_ms": request.time_ms,
        "nonce": request.nonce.hex(),
        "door": request.door,
        "for_s": request.for_s,
        "address": None if request.asked is None else str(request.asked),
        "gate": request.gate,
        "signer_kind": signer.kind,
        "signer_fingerprint": _fingerprint(signer),
        "signer_name": signer.name,
        "certificate": request.signer.hex() if request.is_certificate else None,
        "body": message.body.hex(),
        "signed_text": signed_text(knock.key.raw, message.body).hex(),
        "signature": message.signature.hex(),
    }
    return [json_line(fields)]


def _fingerprint(signer: Signer) -> str:
    return fingerprint_text(parse_public_key(signer.blob).fingerprint)
