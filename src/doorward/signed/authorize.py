"""Authorize signed knocks: from packet, source and time to a valid knock or a rejection. Pure.

The checks run in order of cost, so that a sender who knows less is rejected for less: length, clear check, HPKE,
format, door and gate, freshness, authorization, signature. Replays are detected by daemon/replay_cache.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address
from typing import Literal, NamedTuple, get_args

from doorward.config.duration import rough_duration
from doorward.errors import MalformedError
from doorward.model import BY_BROWSER, BY_FWKNOP, BY_KEY, Address, Source
from doorward.signed.authorized_keys import AuthorizedKeys
from doorward.signed.envelope import CHECK_BYTES, Decryptor
from doorward.signed.message import (
    CLOSE,
    CONFIRM,
    ONCE,
    Request,
    SignedMessage,
    message_number,
    parse_plaintext,
    signed_text,
    target_hash,
)
from doorward.signed.reply import ReplyPath, ReplySecret, reply_secret
from doorward.signed.server_key import PrivateKey
from doorward.signed.ssh_keys import Presence, PublicKey, verify
from doorward.signed.sshsig import expand_signature

Reason = Literal[
    "length", "check", "sealed", "gate", "clock", "key", "door", "forbidden", "signature",
    "repeated", "lost", "stun", "resent", "crowded", "fwknop",
]  # fmt: skip
REASONS: frozenset[str] = frozenset(get_args(Reason))  # a fixed set, so that counters by reason stay few
GARBAGE = ("length", "check", "stun", "resent", "crowded", "fwknop")  # anyone can cause it: counted, never recorded
Kind = Literal["signed knock", "fwknop packet"]
SIGNED: Kind = "signed knock"
FWKNOP: Kind = "fwknop packet"
KINDS: frozenset[str] = frozenset(get_args(Kind))
FORBIDDEN: Reason = "forbidden"  # not allowed by the key's line, which may depend on the packet's source


class ValidKnock(NamedTuple):
    """An authorized knock: it opens a door for `for_ms`, or with None closes the signer's own opening.

    `key` is the signer's name for users, and `signer` identifies it: the hash of its key, or for a certificate of
    authority and key ID, which outlive a renewal. `id` is the message's number, and
    `time_ms` the date that the signer gave it. `is_shared`: it is for the whole fleet, so another gate may have
    accepted it. `once`: for one connection. `reply` and `path`: the secret of the confirmation that the sender wants,
    if any, and its way. `transaction`: of the browser's STUN frame, b"" if its MESSAGE-INTEGRITY is wrong; None: a raw
    packet. `also`: more doors that the same packet opens, which only one of fwknop's can request.
    """

    door: str
    source: Source
    for_ms: int | None
    key: str
    signer: bytes
    id: bytes
    time_ms: int
    is_shared: bool = False
    once: bool = False
    reply: ReplySecret | None = None
    path: ReplyPath | None = None
    transaction: bytes | None = None
    kind: Kind = SIGNED
    also: tuple[str, ...] = ()

    @property
    def is_close(self) -> bool:
        """Return whether it closes."""
        return self.for_ms is None


class KnockRejection(NamedTuple):
    """Why a packet opens nothing: a code for counters, and a sentence for the operator."""

    reason: Reason
    words: str = ""
    door: str | None = None
    kind: Kind = SIGNED


Verdict = ValidKnock | KnockRejection


def signer_text(knock: ValidKnock) -> str:
    """Return who signed a knock, and whether in a browser, for users; for fwknop's packets the stanza."""
    if knock.kind == FWKNOP:
        return f"{BY_FWKNOP}{knock.key}"
    return f"{BY_KEY}{knock.key}" if knock.transaction is None else f"{BY_KEY}{knock.key}{BY_BROWSER}"


class FleetScope(NamedTuple):
    """The fleet's name, and the doors that accept knocks addressed to it."""

    fleet: str
    doors: frozenset[str]


class _Target(NamedTuple):
    """A door that a packet may name."""

    door: str
    is_shared: bool


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
        self._decryptor, self._public = Decryptor(key), key.public.raw
        self._keys, self._doors, self._window_ms = keys, doors, window_ms
        self._targets = {target_hash(gate or "", door): _Target(door, is_shared=False) for door in doors}
        self._faults = dict[bytes, tuple[str, str]]()  # of targets that are easily confused with these
        if gate:
            what = f"the packet names no gate, and this one is {gate!r}"
            self._faults |= {target_hash("", door): (door, what) for door in doors}
        if sharing is not None:
            what = f"the packet is for the fleet {sharing.fleet!r}, with which this gate does not share the door"
            self._faults |= {target_hash(sharing.fleet, door): (door, what) for door in doors}
            self._targets |= {target_hash(sharing.fleet, door): _Target(door, is_shared=True) for door in sharing.doors}

    def authorize(self, packet: bytes, source: bytes, now_ms: int) -> Verdict:
        """Return the verdict on a packet from `source` (a packed address) at `now_ms`, milliseconds since the epoch."""
        if garbage := self._decryptor.is_garbage(packet):
            return KnockRejection(garbage)
        try:
            plaintext = self._decryptor.open(packet)
            message = parse_plaintext(plaintext)
        except MalformedError as error:
            return KnockRejection("sealed", str(error))
        target = self._targets.get(message.request.target)
        if target is None:
            return self._wrong_target(message.request)
        verdict = self._authorize(message, target, ip_address(source), now_ms)
        if message.request.flags & CONFIRM and not isinstance(verdict, KnockRejection):
            return verdict._replace(reply=reply_secret(packet[:CHECK_BYTES], plaintext))
        return verdict

    def _wrong_target(self, request: Request) -> KnockRejection:
        if request.target in self._faults:
            door, what = self._faults[request.target]
            return KnockRejection("gate", what, door)
        signer = self._keys.keys.get(request.signer)
        who = "an unknown key" if signer is None else f"key {signer.name}"
        return KnockRejection("door", f"{who} requested an unknown door, or a door of another gate")

    def _authorize(self, message: SignedMessage, target: _Target, source: Address, now_ms: int) -> Verdict:
        request, door = message.request, target.door
        credential = self._keys.find(request.signer, message.certificate, now_ms / 1000)
        behind_ms = now_ms - request.time_ms
        if abs(behind_ms) > self._window_ms:
            who = "an unknown key" if isinstance(credential, str) else f"key {credential.name}"
            return KnockRejection(
                "clock", f"the packet from {who} is {clock_offset(behind_ms)}; correct the client's clock", door
            )
        if isinstance(credential, str):
            return KnockRejection("key", credential, door)
        if rejection := credential.rejection(door, source, request.asked, now_ms / 1000):
            return KnockRejection(FORBIDDEN, f"key {credential.name} {rejection}", door)
        try:
            presence = self._verify(credential.key, message)
        except MalformedError as error:
            return KnockRejection("signature", f"bad signature by key {credential.name}: {error}", door)
        if rejection := credential.presence_rejection(presence):
            return KnockRejection(FORBIDDEN, f"key {credential.name} {rejection}", door)
        opened = source if request.asked is None else request.asked
        name, number = credential.name, message_number(message.body)
        signer = credential.certified_signer or request.signer
        for_ms = None if request.flags & CLOSE else credential.granted_ms(request.for_s, self._doors[door])
        once = bool(request.flags & ONCE)
        return ValidKnock(door, opened, for_ms, name, signer, number, request.time_ms, target.is_shared, once)

    def _verify(self, key: PublicKey, message: SignedMessage) -> Presence:
        signature = expand_signature(key.kind, message.signature) if message.is_raw else message.signature
        return verify(key, signature, signed_text(self._public, message.body))


def clock_offset(behind_ms: int) -> str:
    """Return how far a packet's date is off, for users."""
    return f"{rough_duration(abs(behind_ms) / 1000)} {'behind' if behind_ms > 0 else 'ahead'}"
