"""The sandboxed process that verifies signed knocks.

It is forked with the log of the datagrams and a socket to the daemon, reads the server's key and the authorized keys,
and then drops the same rights as the reader (nflog_reader.py). It sends its decisions in a fixed format, and the daemon
accepts nothing else. No other process has the server's private key.
"""

from __future__ import annotations

import json
import select
import socket
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from ipaddress import ip_address
from typing import NamedTuple, cast

from doorward.core.token_bucket import TokenBucket
from doorward.daemon.nflog_reader import give_up_everything
from doorward.errors import ConfigFault, DoorwardError, MalformedError
from doorward.kernel import privileges
from doorward.kernel.child_process import Worker
from doorward.kernel.nflog import Datagram, LogSocket
from doorward.model import NAME, Address, parse_address, parse_place
from doorward.signed.authorize import FORBIDDEN, GARBAGE, REASONS, KnockGrant, KnockRejection, PacketAuthorizer, Reason
from doorward.signed.envelope import CHECK_BYTES
from doorward.signed.message import MAX_FOR_MS

MAX_REMEMBERED = (
    65_536  # packets, by their checksum; beyond it the oldest is verified again, and rejected by the ledger
)
REJECTIONS_PER_S, REJECTIONS_AT_ONCE = 50, 200  # rejections reported with their text; all are counted
_MESSAGE_BYTES = 1 << 17
_MAX_PER_REPORT = 40  # per message: it has room for grants of up to 900 bytes and rejections of up to 2,250
_COUNTS_EVERY_S = 1.0  # between two messages that only count
_MAX_LINE_LENGTH, _LONGEST_TROUBLE = 500, 8000


class Rejection(NamedTuple):
    """A rejection with its source."""

    source: Address
    refused: KnockRejection


class VerifierReport(NamedTuple):
    """Grants and rejections, and the number of rejections by reason since the last report."""

    granted: list[KnockGrant]
    refused: list[Rejection]
    counts: dict[str, int]


class VerifierReady(NamedTuple):
    """The first message: faults of single lines of the authorized keys, and why the verifier cannot start, or ""."""

    faults: list[str]
    trouble: str


def pack_report(report: VerifierReport) -> bytes:
    """Return the message with this report."""
    granted = [{**grant._asdict(), "place": str(grant.place), "id": grant.id.hex()} for grant in report.granted]
    refused = [{**why._asdict(), "words": _fit(why.words), "source": str(source)} for source, why in report.refused]
    return _packed({"granted": granted, "refused": refused, "counts": report.counts})


def _packed(message: dict[str, object]) -> bytes:
    return json.dumps(message, ensure_ascii=False).encode(errors="replace")  # a path may hold bytes that are not text


def _fit(words: str) -> str:
    """Shorten and clean a text so that the daemon accepts it; a file's name may be long, or hold anything."""
    return "".join(letter if letter.isprintable() else "?" for letter in words[:_MAX_LINE_LENGTH])


def parse_report(raw: bytes) -> VerifierReport:
    """Parse such a message. MalformedError: it is anything else."""
    try:
        found = json.loads(raw)
        granted = [_granted(**each) for each in found["granted"]]
        refused = [_rejection(**each) for each in found["refused"]]
        counts: dict[str, int] = {_reason(word): _number(count, 1 << 40) for word, count in found["counts"].items()}
        if max(len(granted), len(refused)) > _MAX_PER_REPORT:
            raise ValueError("too many in one message")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise MalformedError("invalid-message", f"verifier: invalid message: {error}") from None
    return VerifierReport(granted, refused, counts)


def _granted(door: str, place: str, for_ms: int, key: str, id: str, time_ms: int, is_shared: bool) -> KnockGrant:  # noqa: A002
    number = bytes.fromhex(id)
    if len(number) != 16 or not NAME.fullmatch(door) or type(is_shared) is not bool:
        raise ValueError("invalid door or packet number")
    where, made_ms = parse_place(_words(place)), _number(time_ms, 1 << 62)
    return KnockGrant(door, where, _number(for_ms, MAX_FOR_MS), _words(key), number, made_ms, is_shared)


def _rejection(reason: str, words: str, door: str | None, source: str) -> Rejection:
    if door is not None and not NAME.fullmatch(door):
        raise ValueError("invalid door")
    return Rejection(parse_address(_words(source)), KnockRejection(_reason(reason), _words(words), door))


def _number(value: object, limit: int) -> int:
    if type(value) is not int or not 0 <= value <= limit:
        raise ValueError("invalid number")
    return value


def _reason(value: object) -> Reason:
    if not isinstance(value, str) or value not in REASONS:
        raise ValueError("unknown reason")
    return cast(Reason, value)


def _words(value: object) -> str:
    if not isinstance(value, str) or not value.isprintable() or len(value) > _MAX_LINE_LENGTH:
        raise ValueError("invalid text")
    return value


class Verifier(Worker):
    """The process that verifies signed knocks, as the daemon uses it."""

    def __init__(
        self, log: LogSocket[Datagram], load: Callable[[], tuple[PacketAuthorizer, list[ConfigFault]]]
    ) -> None:
        """Start it; `load` is called in it, with the daemon's rights, and may raise a DoorwardError."""
        identity = privileges.service_identity()
        self.is_ready = False
        super().__init__("doorward-verify", lambda daemon: _verify(log, daemon, identity, load))

    def read(self) -> VerifierReady | VerifierReport | None:
        """Return the next message, or None. MalformedError: the process ended, or sent an invalid message."""
        raw = self.receive(_MESSAGE_BYTES)
        if raw is None:
            return None
        if not raw:
            raise MalformedError("process-ended", "the process ended")
        if self.is_ready:
            return parse_report(raw)
        self.is_ready = True
        return _parse_ready(raw)


def _parse_ready(raw: bytes) -> VerifierReady:
    try:
        found = json.loads(raw)
        return VerifierReady([_words(fault) for fault in found["faults"]], str(found["trouble"]))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise MalformedError("invalid-message", f"verifier: invalid message: {error}") from None


def _verify(
    log: LogSocket[Datagram],
    daemon: socket.socket,
    identity: privileges.Identity | None,
    load: Callable[[], tuple[PacketAuthorizer, list[ConfigFault]]],
) -> None:
    try:
        judge, faults = load()
        give_up_everything(identity, [log], daemon)
    except (DoorwardError, OSError) as error:
        daemon.send(_ready([], str(error)))
    else:
        daemon.send(_ready(list(map(str, faults)), ""))
        _judge_all(log, daemon, judge)


def _ready(faults: list[str], trouble: str) -> bytes:
    shown = [_fit(fault) for fault in faults[:_MAX_PER_REPORT]]
    return _packed({"faults": shown, "trouble": trouble[:_LONGEST_TROUBLE]})


def _judge_all(log: LogSocket[Datagram], daemon: socket.socket, judge: PacketAuthorizer) -> None:
    """Verify the datagrams of the log until the daemon exits."""
    waiting = select.poll()
    waiting.register(daemon, 0)
    waiting.register(log, select.POLLIN)
    queue = VerifierQueue(judge)
    while daemon.fileno() not in dict(waiting.poll(_COUNTS_EVERY_S * 1000 if queue.counts else None)):
        for report in queue.run(log.read(), time.time(), time.monotonic()):
            daemon.send(pack_report(report))


class VerifierQueue:
    """Verify datagrams, and collect the reports. Pure: times are arguments, in seconds."""

    def __init__(self, judge: PacketAuthorizer) -> None:
        self._judge = judge
        self._remembered: OrderedDict[bytes, None] = OrderedDict()  # finding the oldest key of a dict is slow
        self.counts: Counter[str] = Counter()
        self._limit, self._reported_s = TokenBucket(REJECTIONS_PER_S, REJECTIONS_AT_ONCE), 0.0

    def run(self, datagrams: list[Datagram] | None, wall_s: float, now_s: float) -> list[VerifierReport]:
        """Verify these datagrams (None: some were lost); return the reports that are due."""
        if datagrams is None:
            self.counts["lost"] += 1
            datagrams = []
        granted: list[KnockGrant] = []
        refused: list[Rejection] = []
        for source, packet in datagrams:
            verdict = self._one(source, packet, round(wall_s * 1000))
            if isinstance(verdict, KnockGrant):
                granted.append(verdict)
                continue
            self.counts[verdict.reason] += 1
            if verdict.reason not in GARBAGE and self._limit.admits(now_s):
                refused.append(Rejection(ip_address(source), verdict))
        if not (granted or refused or (self.counts and now_s >= self._reported_s + _COUNTS_EVERY_S)):
            return []
        counts, self.counts = dict(self.counts), Counter()
        self._reported_s = now_s
        reports = [
            VerifierReport(granted[at : at + _MAX_PER_REPORT], refused[at : at + _MAX_PER_REPORT], {})
            for at in range(0, max(len(granted), len(refused), 1), _MAX_PER_REPORT)
        ]
        return [reports[0]._replace(counts=counts), *reports[1:]]

    def _one(self, source: bytes, packet: bytes, now_ms: int) -> KnockGrant | KnockRejection:
        check = packet[:CHECK_BYTES]
        if check in self._remembered or check + source in self._remembered:  # a copy
            return KnockRejection("repeated", "a copy of an earlier packet")
        verdict = self._judge.authorize(packet, source, now_ms)
        if isinstance(verdict, KnockGrant) or verdict.reason not in GARBAGE:
            # A packet forbidden from this source may be allowed from its sender's, which a copy must not block.
            is_forbidden = isinstance(verdict, KnockRejection) and verdict.reason == FORBIDDEN
            self._remembered[check + source if is_forbidden else check] = None
            if len(self._remembered) > MAX_REMEMBERED:
                self._remembered.popitem(last=False)
        return verdict
