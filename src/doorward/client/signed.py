"""Compose, seal and send signed knocks (docs/reference/signed-knock.md). There is never a reply."""

from __future__ import annotations

import hashlib
import os
import socket
import time
from collections.abc import Callable
from ipaddress import ip_address
from typing import NamedTuple

from doorward.client.request_options import AutomaticAddress
from doorward.client.sequence import Target, UnreachableError, send_error
from doorward.client.signers import Signer, signature_bytes
from doorward.errors import HostError, MalformedError, UsageError
from doorward.model import DEFAULT_SIGNED_PORT, NAME, Place, Port
from doorward.signed.envelope import plaintext_capacity, seal
from doorward.signed.message import NONCE_BYTES, Request, pack_body, pack_plaintext, signed_text
from doorward.signed.server_key import X25519, ServerKey, parse_server_key

_SIGNATURE_LENGTH_BYTES = 2
_LATEST_MS = 55_000  # a gate accepts packets up to a minute old, and transit takes time too


class KnockRequest(NamedTuple):
    """What to request, in any number of packets; `asked` None: the source address of the packet."""

    key: ServerKey
    door: str
    gate: str = ""  # empty: the gate named by its key's fingerprint
    for_s: int | None = None
    asked: Place | AutomaticAddress | None = None  # automatic: the source address of the route to the server


class SealedRequest(NamedTuple):
    """One signed message, and the length in bytes of its sealed packet."""

    request: Request
    body: bytes
    signature: bytes
    length: int


class SentPacket(NamedTuple):
    """A message, and where its packet was sent."""

    target: Target
    port: Port
    message: SealedRequest


def build_request(
    server_key: str,
    door: str,
    gate: str | None,
    for_s: int | None = None,
    asked: Place | AutomaticAddress | None = None,
) -> KnockRequest:
    """Build a request from user input. UsageError names the fault and the remedy."""
    key = read_server_key(server_key)
    if not NAME.fullmatch(door):
        raise UsageError("invalid-door-name", f"invalid door name {door!r}; use at most 64 letters, digits, - and _")
    if gate and gate.startswith("SHA256:"):
        if gate != key.fingerprint:
            raise UsageError(
                "gate-key-mismatch",
                f"the gate {gate} does not match the server key {key.fingerprint}; correct one of the two",
            )
        gate = ""
    return KnockRequest(key, door, gate or "", for_s, asked)


def read_server_key(text: str) -> ServerKey:
    """Parse a server's public key. UsageError names the fault and the remedy."""
    try:
        return parse_server_key(text)
    except MalformedError as error:
        raise UsageError(
            error.code, f"invalid server key: {error}; copy the line printed by `doorward key server` on the server"
        ) from None


def max_signature_bytes(knock: KnockRequest) -> int:
    """Return the maximum length in bytes of a signature by a key without a certificate."""
    suite = knock.key.suite
    return (
        plaintext_capacity(suite, suite.long_bytes) - len(pack_body(_template(knock, None))) - _SIGNATURE_LENGTH_BYTES
    )


def check_fits(knock: KnockRequest, signer: Signer) -> None:
    """Check that the message will fit, before asking for a touch. UsageError: it does not, with a remedy."""
    _packet_length(knock, signer, len(pack_body(_template(knock, signer))), signature_bytes(signer.blob))


def compose(knock: KnockRequest, signer: Signer, own: str, time_ms: int, nonce: bytes) -> SealedRequest:
    """Build and sign one message; `own` is this host's source address. UsageError: it does not fit."""
    asked = ip_address(own) if isinstance(knock.asked, AutomaticAddress) else knock.asked
    request = _template(knock, signer)._replace(time_ms=time_ms, nonce=nonce, for_s=knock.for_s, asked=asked)
    body = pack_body(request)
    signature = signer.sign(signed_text(knock.key.raw, body))
    return SealedRequest(request, body, signature, _packet_length(knock, signer, len(body), len(signature)))


def seal_packet(knock: KnockRequest, message: SealedRequest) -> bytes:
    """Return the sealed packet."""
    capacity = plaintext_capacity(knock.key.suite, message.length)
    return seal(knock.key, pack_plaintext(message.body, message.signature, capacity))


def send(
    knock: KnockRequest,
    signer: Signer,
    targets: list[Target],
    port: Port = DEFAULT_SIGNED_PORT,
    *,
    report: Callable[[SentPacket], None] | None = None,
    really: bool = True,
) -> list[Target]:
    """Send each target its own packet, and return the targets that could be reached.

    UnreachableError: none; HostError: signing took longer than a gate accepts. `report` is called for each packet.
    Without `really` everything is done except sending.
    """
    check_fits(knock, signer)
    reached, faults = [], []
    for target in targets:
        with socket.socket(target.family, socket.SOCK_DGRAM) as sender:
            try:
                sender.connect(target.at(port.number))  # finds the route and the source address
                signer.unlock()  # may take a minute, and the message must not age meanwhile
                message = compose(knock, signer, _own_address(sender), now_ms(), os.urandom(NONCE_BYTES))
                _reject_late(now_ms() - message.request.time_ms)
                if really:
                    sender.send(seal_packet(knock, message))
            except OSError as error:
                faults.append(send_error(target, error.errno or 0))
                continue
        reached.append(target)
        if report:
            report(SentPacket(target, port, message))
    if not reached:
        raise UnreachableError("unreachable", "cannot knock: " + "; ".join(faults))
    return reached


def _reject_late(took_ms: int) -> None:
    """Reject a knock that took too long to sign: the gate would drop it silently."""
    if took_ms > _LATEST_MS:
        raise HostError(
            "signed-too-late",
            f"the key signed after {took_ms // 1000} s, but a gate rejects knocks older than 60 s, so it was not sent;"
            " knock again, and touch the key sooner",
        )


def now_ms() -> int:
    """Return the time in milliseconds since the epoch, as in messages."""
    return time.time_ns() // 1_000_000


def _template(knock: KnockRequest, signer: Signer | None) -> Request:
    """Return a request with the fields that determine the length of the message."""
    if signer is not None and signer.certificate is not None:
        signed_by, is_certificate = signer.certificate, True
    else:
        blob = b"" if signer is None else signer.blob
        signed_by, is_certificate = hashlib.sha256(blob).digest(), False
    return Request(0, bytes(NONCE_BYTES), knock.door, None, None, knock.gate, signed_by, is_certificate)


def _own_address(connected: socket.socket) -> str:
    name: tuple[str, ...] = connected.getsockname()
    return name[0].partition("%")[0]  # a link-local address includes its interface


def _packet_length(knock: KnockRequest, signer: Signer, body_bytes: int, signature_bytes: int) -> int:
    """Return the shortest packet length that holds the message. UsageError: none does, with remedies."""
    suite = knock.key.suite
    needed = body_bytes + _SIGNATURE_LENGTH_BYTES + signature_bytes
    for length in (suite.short_bytes, suite.long_bytes):
        if needed <= plaintext_capacity(suite, length):
            return length
    shorter = "shorten the names of the door and the gate"
    remedies = [shorter if signer.kind == "ssh-ed25519" else "sign with an ed25519 key (`ssh-keygen -t ed25519`)"]
    if signer.certificate is not None:
        remedies.append("omit --certificate, or use one with fewer principals and options")
    if suite is not X25519:
        remedies.append("make the server's key with `doorward key server --suite x25519`, whose packets hold more")
    raise UsageError(
        "message-too-long",
        f"the message takes {needed} bytes with this {signer.kind} key, and a packet for {suite.name} holds "
        f"{plaintext_capacity(suite, suite.long_bytes)}; {', or '.join(remedies)}",
    )
