"""`doorward knock --dump`: the fields of a signed knock before it is sealed, as text or JSON."""

from __future__ import annotations

from datetime import UTC, datetime

from doorward.client.keyfile import key_kind
from doorward.client.signed import KnockRequest, SentPacket
from doorward.client.signers import Signer
from doorward.json_form import iso_time, json_line
from doorward.signed.message import CERTIFICATE, CLOSE, CONFIRM, ONCE, RAW_BYTES, VERSION, signed_text
from doorward.signed.ssh_keys import parse_public_key
from doorward.signed.ssh_wire import fingerprint_text

_FLAGS = {CLOSE: "close", ONCE: "once", CONFIRM: "confirm", CERTIFICATE: "certificate"}


def describe(knock: KnockRequest, signer: Signer, sent: SentPacket) -> list[str]:
    """Return the fields as lines of text."""
    message, request = sent.message, sent.message.request
    moment = datetime.fromtimestamp(request.time_ms / 1000, UTC)
    certificate = message.certificate
    rows = {
        "sealed to": f"server key {knock.key.fingerprint} ({knock.key.suite.name})",
        "version": str(VERSION),
        "flags": f"{request.flags:#04x} ({', '.join(_flag_names(request.flags)) or 'open'})",
        "time": f"{request.time_ms} ms ({moment:%Y-%m-%d %H:%M:%S}.{request.time_ms % 1000:03} UTC)",
        "nonce": request.nonce.hex(),
        **({} if request.flags & CLOSE else {"for": _duration_text(request.for_s)}),
        "address": "where the packet comes from" if request.asked is None else str(request.asked),
        "door": knock.door,
        "gate": knock.gate or f"{knock.key.fingerprint} (none named: its key's fingerprint)",
        "target": f"{request.target.hex()} (hash of gate and door)",
        "signed by": f"{signer.kind} {_fingerprint(signer)}, {signer.name}",
        "signer": f"{request.signer.hex()} (hash of the {'certificate' if certificate else 'key'})",
        **({"certificate": f"{len(certificate)} bytes, {key_kind(certificate)}"} if certificate else {}),
        "signature": f"{_form(sent, signer)}, {len(message.signature)} bytes: {message.signature.hex()}",
    }
    lines = (f"  {name:<12} {value}" for name, value in rows.items())
    return [f"{message.length} bytes to {sent.target} {sent.port}, not sent", *lines]


def describe_json(knock: KnockRequest, signer: Signer, sent: SentPacket) -> list[str]:
    """Return the fields as one line of JSON, bytes in hexadecimal."""
    request, message = sent.message.request, sent.message
    fields = {
        "to": str(sent.target),
        "port": str(sent.port),
        "packet_bytes": message.length,
        "server_key": str(knock.key),
        "server_key_fingerprint": knock.key.fingerprint,
        "message_version": VERSION,
        "flags": _flag_names(request.flags),
        "time": iso_time(request.time_ms / 1000),
        "nonce": request.nonce.hex(),
        "for_s": request.for_s,
        "address": None if request.asked is None else str(request.asked),
        "door": knock.door,
        "gate": knock.gate,
        "target": request.target.hex(),
        "signer_kind": signer.kind,
        "signer_fingerprint": _fingerprint(signer),
        "signer_name": signer.name,
        "signer": request.signer.hex(),
        "certificate": message.certificate.hex() or None,
        "body": message.body.hex(),
        "signed_text": signed_text(knock.key.raw, message.body).hex(),
        "signature": message.signature.hex(),
    }
    return [json_line(fields)]


def _duration_text(for_s: int | None) -> str:
    return "the door's own duration" if for_s is None else f"{for_s} s"


def _flag_names(flags: int) -> list[str]:
    return [name for flag, name in _FLAGS.items() if flags & flag]


def _form(sent: SentPacket, signer: Signer) -> str:
    message = sent.message
    return f"{signer.kind}, raw" if message.length == RAW_BYTES else key_kind(message.signature)


def _fingerprint(signer: Signer) -> str:
    return fingerprint_text(parse_public_key(signer.blob).fingerprint)
