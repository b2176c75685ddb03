"""Authorize signed knocks: from packet, source and time to a grant or a rejection. Pure.

The checks run in order of cost, so that a sender who knows less is rejected for less: length, clear check, HPKE,
format, gate, freshness, authorization, signature. Replays are detected by daemon/replay_cache.py.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Literal, NamedTuple, get_args

from doorward.config.duration import rough_duration
from doorward.errors import MalformedError
from doorward.model import Address, Place
from doorward.signed.authorized_keys import AuthorizedKeys
from doorward.signed.envelope import PERSON, Decryptor
from doorward.signed.message import SignedMessage, parse_plaintext, signed_text
from doorward.signed.server_key import PrivateKey
from doorward.signed.ssh_keys import verify

Reason = Literal[
    "length", "check", "sealed", "gate", "clock", "key", "door", "forbidden", "signature", "repeated", "lost"
]
REASONS: frozenset[str] = frozenset(get_args(Reason))  # a fixed set, so that counters by reason stay few
GARBAGE = ("length", "check")  # reasons that anyone can cause: counted, never recorded
FORBIDDEN: Reason = "forbidden"  # not allowed by the key's line, which may depend on the packet's source


class KnockGrant(NamedTuple):
    """An authorized knock: door, address, time, key name, replay ID and time of creation.

    `is_shared`: it is for the whole fleet, so another gate may have accepted it.
    """

    door: str
    place: Place
    for_ms: int
    key: str
    id: bytes
    time_ms: int
    is_shared: bool = False


class KnockRejection(NamedTuple):
    """Why a packet opens nothing: a code for counters, and a sentence for the operator."""

    reason: Reason
    words: str = ""
    door: str | None = None


class FleetScope(NamedTuple):
    """The fleet's name, and the doors that accept knocks addressed to it."""

    fleet: str
    doors: frozenset[str]


class PacketAuthorizer:
    """Authorizes packets for one server key. `doors`: opening times in ms; `gate` None: the key's fingerprint."""

    def __init__(
        self,
        key: PrivateKey,
        keys: AuthorizedKeys,
        doors: Mapping[str, int],
        gate: str | None,
        window_ms: int,
        sharing: FleetScope | None = None,
    ) -> None:
        self._sharing = sharing
        self._decryptor, self._public = Decryptor(key), key.public.raw
        self._keys, self._doors, self._gate, self._window_ms = keys, doors, gate or "", window_ms

    def authorize(self, packet: bytes, source: bytes, now_ms: int) -> KnockGrant | KnockRejection:
        """Return the verdict on a packet from `source` (a packed address) at `now_ms`, milliseconds since the epoch."""
        if garbage := self._decryptor.is_garbage(packet):
            return KnockRejection(garbage)
        try:
            message = parse_plaintext(self._decryptor.open(packet))
        except MalformedError as error:
            return KnockRejection("sealed", str(error))
        request = message.request
        sharing = self._sharing
        is_shared = sharing is not None and request.gate == sharing.fleet and request.door in sharing.doors
        if request.gate != self._gate and not is_shared:
            meant = f"is for the gate {request.gate!r}" if request.gate else "names no gate"
            own = f"is {self._gate!r}" if self._gate else "has no name"
            return KnockRejection("gate", f"the packet {meant}, and this one {own}", request.door)
        verdict = self._authorize(message, ip_address(source), now_ms)
        return verdict._replace(is_shared=is_shared) if isinstance(verdict, KnockGrant) else verdict

    def _authorize(self, message: SignedMessage, source: Address, now_ms: int) -> KnockGrant | KnockRejection:
        request = message.request
        credential = self._keys.find(request.signer, is_certificate=request.is_certificate, now_s=now_ms / 1000)
        behind_ms = now_ms - request.time_ms
        if abs(behind_ms) > self._window_ms:
            who = "an unknown key" if isinstance(credential, str) else f"key {credential.name}"
            return KnockRejection(
                "clock",
                f"the packet from {who} is {_clock_offset(behind_ms)}; correct the client's clock",
                request.door,
            )
        if isinstance(credential, str):
            return KnockRejection("key", credential, request.door)
        if request.door not in self._doors:
            return KnockRejection("door", f"key {credential.name} requested unknown door '{request.door}'")
        if rejection := credential.rejection(request.door, source, request.asked, now_ms / 1000):
            return KnockRejection(FORBIDDEN, f"key {credential.name} {rejection}", request.door)
        try:
            presence = verify(credential.key, message.signature, signed_text(self._public, message.body))
        except MalformedError as error:
            return KnockRejection("signature", f"bad signature by key {credential.name}: {error}", request.door)
        if rejection := credential.presence_rejection(presence):
            return KnockRejection(FORBIDDEN, f"key {credential.name} {rejection}", request.door)
        target = source if request.asked is None else request.asked
        for_ms = credential.granted_ms(request.for_s, self._doors[request.door])
        knock_id = hashlib.blake2s(message.body, digest_size=16, person=PERSON).digest()
        return KnockGrant(request.door, target, for_ms, credential.name, knock_id, request.time_ms)


def _clock_offset(behind_ms: int) -> str:
    return f"{rough_duration(abs(behind_ms) / 1000)} {'behind' if behind_ms > 0 else 'ahead'}"
