"""Composes signed knocks, seals them and sends them (docs/reference/signed-knock.md). Nothing is ever answered."""

from __future__ import annotations

import hashlib
import os
import socket
import time
from collections.abc import Callable
from ipaddress import ip_address
from typing import NamedTuple

from doorward.client.request_options import AutomaticAddress
from doorward.client.sequence import Target, UnreachableError, failure
from doorward.client.signers import Signer, signature_bytes
from doorward.errors import HostError, MalformedError, UsageError
from doorward.model import DEFAULT_SIGNED_PORT, NAME, Place, Port
from doorward.signed.envelope import room, seal
from doorward.signed.message import NONCE_BYTES, Request, pack_body, pack_plaintext, signed_text
from doorward.signed.server_key import X25519, ServerKey, parse_server_key

_SIGNATURE_LENGTH_BYTES = 2
_LATEST_MS = 55_000  # a gate takes what is a minute old, and the packet needs time too


class KnockRequest(NamedTuple):
    """What is to be said, whichever packet says it; `asked` None: the address that the packet comes from."""

    key: ServerKey
    door: str
    gate: str = ""  # none named: the one that is called as its key's fingerprint
    for_s: int | None = None
    asked: Place | AutomaticAddress | None = None  # Auto: the address that the route to the server begins with


class SealedRequest(NamedTuple):
    """One signed message, and how long its packet is once it is sealed."""

    request: Request
    body: bytes
    signature: bytes
    length: int


class SentPacket(NamedTuple):
    """A message, and where its packet went."""

    target: Target
    port: Port
    message: SealedRequest


def letter(
    server_key: str,
    door: str,
    gate: str | None,
    for_s: int | None = None,
    asked: Place | AutomaticAddress | None = None,
) -> KnockRequest:
    """Put a letter together from what people write. UsageError: what is wrong, and what to write."""
    try:
        key = parse_server_key(server_key)
    except MalformedError as error:
        raise UsageError(f"no server key: {error}; copy the line that `doorward key server` prints there") from None
    if not NAME.fullmatch(door):
        raise UsageError(f"{door!r} is no door's name; it has letters, digits, - and _, at most 64")
    if gate and gate.startswith("SHA256:"):
        if gate != key.fingerprint:
            raise UsageError(f"the gate {gate} has another key than this, {key.fingerprint}; correct one of the two")
        gate = ""
    return KnockRequest(key, door, gate or "", for_s, asked)


def most_signature_bytes(letter: KnockRequest) -> int:
    """Tell how long a signature may be at most, by a key without a certificate."""
    suite = letter.key.suite
    return room(suite, suite.long_bytes) - len(pack_body(_blank(letter, None))) - _SIGNATURE_LENGTH_BYTES


def refuse_misfit(letter: KnockRequest, signer: Signer) -> None:
    """See that the message will fit, before anybody is asked for a touch. UsageError: it will not, and what would."""
    _fit(letter, signer, len(pack_body(_blank(letter, signer))), signature_bytes(signer.blob))


def compose(letter: KnockRequest, signer: Signer, own: str, time_ms: int, nonce: bytes) -> SealedRequest:
    """Write and sign one message; `own` is this machine's address on the way there. UsageError: it does not fit."""
    asked = ip_address(own) if isinstance(letter.asked, AutomaticAddress) else letter.asked
    request = _blank(letter, signer)._replace(time_ms=time_ms, nonce=nonce, for_s=letter.for_s, asked=asked)
    body = pack_body(request)
    signature = signer.sign(signed_text(letter.key.raw, body))
    return SealedRequest(request, body, signature, _fit(letter, signer, len(body), len(signature)))


def sealed(letter: KnockRequest, message: SealedRequest) -> bytes:
    """Give the packet."""
    space = room(letter.key.suite, message.length)
    return seal(letter.key, pack_plaintext(message.body, message.signature, space))


def send(
    letter: KnockRequest,
    signer: Signer,
    targets: list[Target],
    port: Port = DEFAULT_SIGNED_PORT,
    *,
    report: Callable[[SentPacket], None] | None = None,
    really: bool = True,
) -> list[Target]:
    """Send each target a packet of its own, and give those that one could be sent to.

    NoWayError: none; HostError: the key took longer to sign than a gate waits. `report` hears of each packet. Not
    `really`: all is done but the sending.
    """
    refuse_misfit(letter, signer)
    reached, faults = [], []
    for target in targets:
        with socket.socket(target.family, socket.SOCK_DGRAM) as sender:
            try:
                sender.connect(target.at(port.number))  # tells whether there is a way, and from which address
                signer.unlock()  # a person may take a minute, which the message's time must not be older by
                message = compose(letter, signer, _own(sender), now_ms(), os.urandom(NONCE_BYTES))
                _refuse_late(now_ms() - message.request.time_ms)
                if really:
                    sender.send(sealed(letter, message))
            except OSError as error:
                faults.append(failure(target, error.errno or 0))
                continue
        reached.append(target)
        if report:
            report(SentPacket(target, port, message))
    if not reached:
        raise UnreachableError("cannot knock: " + "; ".join(faults))
    return reached


def _refuse_late(took_ms: int) -> None:
    """Say what the gate would not: a touch that comes after a minute is for a knock that is too old."""
    if took_ms > _LATEST_MS:
        raise HostError(
            f"the key signed after {took_ms // 1000} s, and a gate takes a knock for 60 s only, so it was not sent;"
            " knock again, and touch the key sooner"
        )


def now_ms() -> int:
    """Tell the time as the message does."""
    return time.time_ns() // 1_000_000


def _blank(letter: KnockRequest, signer: Signer | None) -> Request:
    """Fill in what makes a message as long as it is."""
    if signer is not None and signer.certificate is not None:
        signed_by, is_certificate = signer.certificate, True
    else:
        blob = b"" if signer is None else signer.blob
        signed_by, is_certificate = hashlib.sha256(blob).digest(), False
    return Request(0, bytes(NONCE_BYTES), letter.door, None, None, letter.gate, signed_by, is_certificate)


def _own(connected: socket.socket) -> str:
    name: tuple[str, ...] = connected.getsockname()
    return name[0].partition("%")[0]  # a link-local address is named with its interface


def _fit(letter: KnockRequest, signer: Signer, body_bytes: int, signature_bytes: int) -> int:
    """Give the shorter length of a packet that holds the message. UsageError: none does, and what would."""
    suite = letter.key.suite
    needed = body_bytes + _SIGNATURE_LENGTH_BYTES + signature_bytes
    for length in (suite.short_bytes, suite.long_bytes):
        if needed <= room(suite, length):
            return length
    shorter = "shorten the names of the door and the gate"
    remedies = [shorter if signer.kind == "ssh-ed25519" else "sign with an ed25519 key (`ssh-keygen -t ed25519`)"]
    if signer.certificate is not None:
        remedies.append("leave out --certificate, or have one made with fewer names and options")
    if suite is not X25519:
        remedies.append("make the server's key with `doorward key server --suite x25519`, whose packets hold more")
    raise UsageError(
        f"the message needs {needed} bytes with this {signer.kind} key, and a packet for {suite.name} holds "
        f"{room(suite, suite.long_bytes)}; {', or '.join(remedies)}"
    )
