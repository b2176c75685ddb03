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
from doorward.daemon.browser_frames import BrowserFrames, FrameRepeat
from doorward.daemon.nflog_reader import give_up_everything
from doorward.errors import ConfigFault, DoorwardError, MalformedError
from doorward.escape import printable
from doorward.kernel import privileges
from doorward.kernel.child_process import Worker
from doorward.kernel.nflog import LoggedDatagram, LogSocket
from doorward.model import NAME, Address, parse_address, parse_source
from doorward.packets.packet import UdpDatagram
from doorward.signed.authorize import (
    FORBIDDEN,
    GARBAGE,
    REASONS,
    KnockRejection,
    PacketAuthorizer,
    Reason,
    ValidKnock,
    Verdict,
)
from doorward.signed.envelope import CHECK_BYTES
from doorward.signed.message import HASH_BYTES, MAX_FOR_MS, MAX_TIME_MS, NUMBER_BYTES
from doorward.signed.reply import SECRET_BYTES, ReplyPath, ReplySecret
from doorward.signed.stun import TRANSACTION_BYTES, is_frame, unwrap

MAX_REMEMBERED = (
    65_536  # packets, by their checksum; beyond it the oldest is verified again, and rejected by the ledger
)
REJECTIONS_PER_S, REJECTIONS_AT_ONCE = 50, 200  # rejections reported with their text; all are counted
_MESSAGE_BYTES = 1 << 17
_MAX_PER_REPORT = 36  # per message: it has room for knocks of up to 1,250 bytes and rejections of up to 2,250
_COUNTS_EVERY_S = 1.0  # between two messages that only count
_MAX_LINE_LENGTH, _LONGEST_TROUBLE = 500, 8000

_COPY = KnockRejection("repeated", "a copy of an earlier packet")
_RESENT = KnockRejection("resent")


class Rejection(NamedTuple):
    """A rejection with its source."""

    source: Address
    refused: KnockRejection


class VerifierReport(NamedTuple):
    """Valid knocks in the order of arrival, rejections, and the number of these by reason since the last report.

    `repeats`: frames of knocks in this report or an earlier one, to answer again.
    """

    knocks: list[ValidKnock]
    refused: list[Rejection]
    counts: dict[str, int]
    repeats: tuple[FrameRepeat, ...] = ()


class VerifierReady(NamedTuple):
    """The first message: faults of single lines of the authorized keys, and why the verifier cannot start, or ""."""

    faults: list[str]
    trouble: str


def pack_report(report: VerifierReport) -> bytes:
    """Return the message with this report."""
    knocks = [
        {
            **knock._asdict(),
            "source": str(knock.source),
            "signer": knock.signer.hex(),
            "id": knock.id.hex(),
            "reply": None if knock.reply is None else knock.reply.hex(),
            "path": None if knock.path is None else [str(part) for part in knock.path],
            "transaction": None if knock.transaction is None else knock.transaction.hex(),
        }
        for knock in report.knocks
    ]
    refused = [
        {**why._asdict(), "words": printable(why.words, _MAX_LINE_LENGTH), "source": str(source)}
        for source, why in report.refused
    ]
    repeats = [[part.hex() for part in repeat] for repeat in report.repeats]
    return _packed({"knocks": knocks, "refused": refused, "counts": report.counts, "repeats": repeats})


def _packed(message: dict[str, object]) -> bytes:
    return json.dumps(message, ensure_ascii=False).encode(errors="replace")  # a path may hold bytes that are not text


def parse_report(raw: bytes) -> VerifierReport:
    """Parse such a message. MalformedError: it is anything else."""
    try:
        found = json.loads(raw)
        knocks = [_knock(**each) for each in found["knocks"]]
        refused = [_rejection(**each) for each in found["refused"]]
        counts: dict[str, int] = {_reason(word): _number(count, 1 << 40) for word, count in found["counts"].items()}
        repeats = tuple(_repeat(*each) for each in found["repeats"])
        if max(len(knocks), len(refused), len(repeats)) > _MAX_PER_REPORT:
            raise ValueError("too many in one message")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise MalformedError("invalid-message", f"verifier: invalid message: {error}") from None
    return VerifierReport(knocks, refused, counts, repeats)


def _knock(
    door: str,
    source: str,
    for_ms: int | None,
    key: str,
    signer: str,
    id: str,  # noqa: A002
    time_ms: int,
    is_shared: bool,
    once: bool,
    reply: str | None,
    path: list[str] | None,
    transaction: str | None,
) -> ValidKnock:
    if not NAME.fullmatch(door) or type(is_shared) is not bool or type(once) is not bool:
        raise ValueError("invalid door or scope")
    secret = None if reply is None else ReplySecret(_bytes(reply, SECRET_BYTES))
    return ValidKnock(
        door, parse_source(_words(source)), None if for_ms is None else _number(for_ms, MAX_FOR_MS),
        _words(key), _bytes(signer, HASH_BYTES), _bytes(id, NUMBER_BYTES),
        _number(time_ms, MAX_TIME_MS), is_shared, once, secret,
        None if path is None else _path(*path),
        None if transaction is None else _bytes(transaction, TRANSACTION_BYTES if transaction else 0),
    )  # fmt: skip


def _path(source: str, source_port: str, destination: str, port: str, interface: str) -> ReplyPath:
    ports = [_number(int(_words(number)), 0xFFFF) for number in (source_port, port)]
    addresses = [parse_address(_words(address)) for address in (source, destination)]
    if addresses[0].version != addresses[1].version:
        raise ValueError("addresses of two families")
    return ReplyPath(addresses[0], ports[0], addresses[1], ports[1], _number(int(_words(interface)), 0x7FFFFFFF))


def _repeat(id: str, transaction: str) -> FrameRepeat:  # noqa: A002
    return FrameRepeat(_bytes(id, NUMBER_BYTES), _bytes(transaction, TRANSACTION_BYTES))


def _bytes(value: str, length: int) -> bytes:
    raw = bytes.fromhex(value)
    if len(raw) != length:
        raise ValueError("invalid bytes")
    return raw


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
        self,
        log: LogSocket[LoggedDatagram],
        load: Callable[[], tuple[PacketAuthorizer, list[ConfigFault]]],
        is_for_browsers: bool,
    ) -> None:
        """Start it; `load` is called in it, with the daemon's rights, and may raise a DoorwardError."""
        identity = privileges.service_identity()
        self.is_ready = False
        super().__init__("doorward-verify", lambda daemon: _verify(log, daemon, identity, load, is_for_browsers))

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
    log: LogSocket[LoggedDatagram],
    daemon: socket.socket,
    identity: privileges.Identity | None,
    load: Callable[[], tuple[PacketAuthorizer, list[ConfigFault]]],
    is_for_browsers: bool,
) -> None:
    try:
        judge, faults = load()
        give_up_everything(identity, [log], daemon)
    except (DoorwardError, OSError) as error:
        daemon.send(_ready([], str(error)))
    else:
        daemon.send(_ready(list(map(str, faults)), ""))
        _judge_all(log, daemon, VerifierQueue(judge, is_for_browsers=is_for_browsers))


def _ready(faults: list[str], trouble: str) -> bytes:
    shown = [printable(fault, _MAX_LINE_LENGTH) for fault in faults[:_MAX_PER_REPORT]]
    return _packed({"faults": shown, "trouble": trouble[:_LONGEST_TROUBLE]})


def _judge_all(log: LogSocket[LoggedDatagram], daemon: socket.socket, queue: VerifierQueue) -> None:
    """Verify the datagrams of the log until the daemon exits."""
    waiting = select.poll()
    waiting.register(daemon, 0)
    waiting.register(log, select.POLLIN)
    while daemon.fileno() not in dict(waiting.poll(_COUNTS_EVERY_S * 1000 if queue.counts else None)):
        for report in queue.run(log.read(), time.time(), time.monotonic()):
            daemon.send(pack_report(report))


class VerifierQueue:
    """Verify datagrams, and collect the reports. Pure: times are arguments, in seconds."""

    def __init__(self, judge: PacketAuthorizer, *, is_for_browsers: bool = False) -> None:
        self._judge, self._is_for_browsers = judge, is_for_browsers
        # Apart: anyone who has the server's key can fill the memory of rejected frames.
        self._accepted, self._rejected = BrowserFrames(), BrowserFrames()
        self._remembered: OrderedDict[bytes, None] = OrderedDict()  # finding the oldest key of a dict is slow
        self.counts: Counter[str] = Counter()
        self._limit, self._reported_s = TokenBucket(REJECTIONS_PER_S, REJECTIONS_AT_ONCE), 0.0

    def run(self, datagrams: list[LoggedDatagram] | None, wall_s: float, now_s: float) -> list[VerifierReport]:
        """Verify these datagrams (None: some were lost); return the reports that are due."""
        if datagrams is None:
            self.counts["lost"] += 1
            datagrams = []
        knocks: list[ValidKnock] = []
        refused: list[Rejection] = []
        repeats: list[FrameRepeat] = []
        for udp, interface in datagrams:
            verdict = self._one(udp, interface, round(wall_s * 1000), now_s)
            if isinstance(verdict, FrameRepeat):
                repeats.append(verdict)
                verdict = _RESENT
            if not isinstance(verdict, KnockRejection):
                knocks.append(verdict if verdict.reply is None else verdict._replace(path=_path_of(udp, interface)))
                continue
            self.counts[verdict.reason] += 1
            if verdict.reason not in GARBAGE and self._limit.admits(now_s):
                refused.append(Rejection(ip_address(udp.source), verdict))
        if not (knocks or refused or repeats or (self.counts and now_s >= self._reported_s + _COUNTS_EVERY_S)):
            return []
        counts, self.counts = dict(self.counts), Counter()
        self._reported_s = now_s
        reports = [
            VerifierReport(
                knocks[at : at + _MAX_PER_REPORT],
                refused[at : at + _MAX_PER_REPORT],
                {},
                tuple(repeats[at : at + _MAX_PER_REPORT]),
            )
            for at in range(0, max(len(knocks), len(refused), len(repeats), 1), _MAX_PER_REPORT)
        ]
        return [reports[0]._replace(counts=counts), *reports[1:]]

    def _one(self, udp: UdpDatagram, interface: int, now_ms: int, now_s: float) -> Verdict | FrameRepeat:
        if not self._is_for_browsers or not is_frame(udp.payload):
            return self._packet(udp.source, udp.payload, now_ms)
        try:
            packet = unwrap(udp.payload)
        except MalformedError:
            return KnockRejection("stun")
        check, path = packet[:CHECK_BYTES], _path_of(udp, interface)
        verdict = self._packet(udp.source, packet, now_ms)
        if verdict == _COPY:
            resent = self._accepted.resent(check, udp.payload, path, now_s)
            if isinstance(resent, FrameRepeat):
                return resent
            return _RESENT if resent or self._rejected.resent(check, udp.payload, path, now_s) else verdict
        if isinstance(verdict, KnockRejection):
            if verdict.reason in GARBAGE:
                return verdict
            self._rejected.add(check, udp.payload, path, b"", None, now_s)
            return verdict._replace(words=f"by browser: {verdict.words}")
        transaction = self._accepted.add(check, udp.payload, path, verdict.id, verdict.reply, now_s)
        return verdict._replace(transaction=transaction)

    def _packet(self, source: bytes, packet: bytes, now_ms: int) -> Verdict:
        check = packet[:CHECK_BYTES]
        if check in self._remembered or check + source in self._remembered:  # a copy
            return _COPY
        verdict = self._judge.authorize(packet, source, now_ms)
        reason = verdict.reason if isinstance(verdict, KnockRejection) else ""
        if reason not in GARBAGE:
            # A packet forbidden from this source may be allowed from its sender's, which a copy must not block.
            is_forbidden = reason == FORBIDDEN
            self._remembered[check + source if is_forbidden else check] = None
            if len(self._remembered) > MAX_REMEMBERED:
                self._remembered.popitem(last=False)
        return verdict


def _path_of(udp: UdpDatagram, interface: int) -> ReplyPath:
    return ReplyPath(ip_address(udp.source), udp.source_port, ip_address(udp.destination), udp.port, interface)
