"""Compose, seal and send signed knocks (docs/reference/signed-knock.md)."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from ipaddress import ip_address
from typing import NamedTuple

from doorward.client.confirmation import AwaitedReply, ReplyListener
from doorward.client.request_options import AutomaticAddress
from doorward.client.sequence import Target, UnreachableError, send_error
from doorward.client.signers import Signer, signature_bytes
from doorward.errors import HostError, MalformedError, UsageError
from doorward.model import DEFAULT_SIGNED_PORT, NAME, Address, Port, Source
from doorward.signed.envelope import CHECK_BYTES, RANDOM_BYTES, plaintext_capacity, seal
from doorward.signed.message import (
    CERTIFICATE,
    NONCE_BYTES,
    RAW_BYTES,
    RAW_KINDS,
    Request,
    pack_body,
    pack_plaintext,
    packed_bytes,
    signed_text,
    signer_hash,
    target_hash,
)
from doorward.signed.reply import ReplySecret, reply_secret
from doorward.signed.server_key import X25519, ServerKey, parse_server_key
from doorward.signed.sshsig import shorten_signature

_last_date_ms = 0
_LATEST_MS = 55_000  # a gate accepts packets up to a minute old, and transit takes time too


class KnockRequest(NamedTuple):
    """What to request, in any number of packets; `asked` None: the source address of the packet."""

    key: ServerKey
    door: str
    gate: str = ""  # empty: the gate named by its key's fingerprint
    for_s: int | None = None
    asked: Source | AutomaticAddress | None = None  # automatic: the source address of the route to the server
    flags: int = 0  # of the message


class ComposedMessage(NamedTuple):
    """One signed message, its signature as sent, and the length in bytes of its packet."""

    request: Request
    body: bytes
    signature: bytes
    length: int
    certificate: bytes = b""


class SentPacket(NamedTuple):
    """A message, and where its packet was sent."""

    target: Target
    port: Port
    message: ComposedMessage


def build_request(
    server_key: str,
    door: str,
    gate: str | None,
    for_s: int | None = None,
    asked: Source | AutomaticAddress | None = None,
    flags: int = 0,
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
    return KnockRequest(key, door, gate or "", for_s, asked, flags)


def read_server_key(text: str) -> ServerKey:
    """Parse a server's public key. UsageError names the fault and the remedy."""
    try:
        return parse_server_key(text)
    except MalformedError as error:
        raise UsageError(
            error.code, f"invalid server key: {error}; copy the line printed by `doorward key server` on the server"
        ) from None


def max_signature_bytes(key: ServerKey) -> int:
    """Return the maximum length in bytes of a signature by a key without a certificate."""
    return plaintext_capacity(key.suite, key.suite.lengths[-1]) - packed_bytes(0)


def check_fits(knock: KnockRequest, signer: Signer) -> None:
    """Check that the message will fit, before asking for a touch. UsageError: it does not, with a remedy."""
    _packet_length(knock, signer, signature_bytes(signer.blob))


def compose(knock: KnockRequest, signer: Signer, own: str, time_ms: int, nonce: bytes) -> ComposedMessage:
    """Build and sign one message; `own` is this host's source address. UsageError: it does not fit."""
    asked = _plain_address(own) if isinstance(knock.asked, AutomaticAddress) else knock.asked
    certificate = signer.certificate or b""
    flags = knock.flags | CERTIFICATE if certificate else knock.flags
    target, signed_by = target_hash(knock.gate, knock.door), signer_hash(certificate or signer.blob)
    request = Request(time_ms, nonce, target, signed_by, knock.for_s, asked, flags)
    body = pack_body(request)
    signature = signer.sign(signed_text(knock.key.raw, body))
    length = _packet_length(knock, signer, len(signature))
    if length == RAW_BYTES:
        signature = _shortened(signature, signer)
    return ComposedMessage(request, body, signature, length, certificate)


def seal_packet(knock: KnockRequest, message: ComposedMessage) -> bytes:
    """Return the sealed packet."""
    return _seal(knock, message)[0]


def _seal(knock: KnockRequest, message: ComposedMessage) -> tuple[bytes, ReplySecret]:
    """Return the sealed packet, and the secret of its confirmation."""
    capacity = plaintext_capacity(knock.key.suite, message.length)
    plaintext = pack_plaintext(message.body, message.signature, capacity, message.certificate)
    packet = seal(knock.key, plaintext, os.urandom(RANDOM_BYTES))
    return packet, reply_secret(packet[:CHECK_BYTES], plaintext)


def send(
    knock: KnockRequest,
    signer: Signer,
    targets: list[Target],
    port: Port = DEFAULT_SIGNED_PORT,
    *,
    report: Callable[[SentPacket], None] | None = None,
    really: bool = True,
    replies: ReplyListener | None = None,
) -> list[Target]:
    """Send each target its own packet, and return the targets that could be reached.

    UnreachableError: none; HostError: signing took longer than a gate accepts. `report` is called for each packet.
    Without `really` everything is done except sending. `replies` then waits for confirmations.
    """
    check_fits(knock, signer)
    reached, faults = [], []
    for target in targets:
        with ExitStack() as opened:
            sender = opened.enter_context(socket.socket(target.family, socket.SOCK_DGRAM))
            try:
                sender.connect(target.at(port.number))  # finds the route and the source address
                signer.unlock()  # may take a minute, and the message must not age meanwhile
                message = compose(knock, signer, _own_address(sender), _next_date_ms(), os.urandom(NONCE_BYTES))
                _reject_late(now_ms() - message.request.time_ms)
                packet, secret = _seal(knock, message)
                sent_s = time.monotonic()
                if really:
                    sender.send(packet)
            except OSError as error:
                faults.append(send_error(target, error.errno or 0))
                continue
            if replies is not None:
                opened.pop_all()
                own, request = _own_address(sender), message.request
                replies.expect(
                    sender, AwaitedReply(knock.door, signer.name, own, target, port, request, secret, sent_s)
                )
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


def _next_date_ms() -> int:
    """Return the date of a message, later than that of each earlier one: a close is for the opens before it."""
    global _last_date_ms
    _last_date_ms = max(now_ms(), _last_date_ms + 1)
    return _last_date_ms


def _own_address(connected: socket.socket) -> str:
    name: tuple[str, ...] = connected.getsockname()
    return name[0].partition("%")[0]  # a link-local address includes its interface


def _plain_address(text: str) -> Address:
    """Return an address; an IPv4 address in IPv6's form, as a socket may have, in its own form."""
    address = ip_address(text)
    return getattr(address, "ipv4_mapped", None) or address


def _shortened(signature: bytes, signer: Signer) -> bytes:
    try:
        return shorten_signature(signature)
    except MalformedError as error:
        raise HostError("invalid-signature", f"{signer.name} returned {error}; use another agent or key") from None


def _packet_length(knock: KnockRequest, signer: Signer, signature_bytes: int) -> int:
    """Return the length of the packet, which the signer determines. UsageError: none holds it, with remedies."""
    suite, certificate = knock.key.suite, signer.certificate
    if suite is X25519 and signer.kind in RAW_KINDS and certificate is None:
        return RAW_BYTES
    needed = packed_bytes(signature_bytes, certificate)
    lengths = [length for length in suite.lengths if length != RAW_BYTES]
    for length in lengths:
        if needed <= plaintext_capacity(suite, length):
            return length
    remedies = []
    if signer.kind != "ssh-ed25519":
        remedies.append("sign with an ed25519 key (`ssh-keygen -t ed25519`)")
    if certificate is not None:
        remedies.append("omit --certificate, or use one with fewer principals and options")
    if suite is not X25519:
        remedies.append("make the server's key with `doorward key server --suite x25519`, whose packets hold more")
    raise UsageError(
        "message-too-long",
        f"the message takes {needed} bytes with this {signer.kind} key, and a packet for {suite.name} holds "
        f"{plaintext_capacity(suite, lengths[-1])}; {', or '.join(remedies)}",
    )
