"""The sandboxed process that verifies signed knocks.

It is forked with the log of the datagrams and a socket to the daemon, reads the server's key and the authorized keys,
and then drops the same rights as the reader (nflog_reader.py). It sends its decisions in a fixed format, and the daemon
accepts nothing else. No other process has the server's private key.
"""

from __future__ import annotations

import select
import socket
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from ipaddress import ip_address
from typing import Protocol

from doorward.core.token_bucket import TokenBucket
from doorward.daemon.browser_frames import BrowserFrames, FrameRepeat
from doorward.daemon.key_files import Authorizers
from doorward.daemon.nflog_reader import give_up_everything
from doorward.daemon.verifier_report import (
    MAX_PER_REPORT,
    Rejection,
    VerifierReady,
    VerifierReport,
    pack_ready,
    pack_report,
    parse_ready,
    parse_report,
)
from doorward.errors import DoorwardError, MalformedError
from doorward.fwknop.spa_packet import is_candidate
from doorward.kernel import privileges
from doorward.kernel.child_process import Worker
from doorward.kernel.nflog import LoggedDatagram, LogSocket
from doorward.packets.packet import UdpDatagram
from doorward.signed.authorize import FORBIDDEN, FWKNOP, GARBAGE, KnockRejection, ValidKnock, Verdict
from doorward.signed.envelope import CHECK_BYTES
from doorward.signed.reply import ReplyPath
from doorward.signed.stun import is_frame, unwrap

MAX_REMEMBERED = 65_536  # packets, by their check; beyond it the oldest is verified again, and rejected by the ledger
# Frames verified of those that wait together. More wait only where the verifier is too slow for a flood of them, and
# would delay all other knocks; browsers repeat theirs.
MAX_FRAMES_AT_ONCE = 64
REJECTIONS_PER_S, REJECTIONS_AT_ONCE = 50, 200  # rejections reported with their text; all are counted
_MESSAGE_BYTES = 1 << 17
_MAX_WAITING = 256  # packets of fwknop's clients; at a thousand stanzas it takes a third of a second to verify them
_IPV4_BYTES = 4  # fwknop knows no IPv6
_COUNTS_EVERY_S = 1.0  # between two messages that only count
_FINISH_S = 1.0  # the packets of fwknop's that wait take a third of it; a compromised process would not exit at all

_COPY = KnockRejection("repeated", "a copy of an earlier packet")
_RESENT = KnockRejection("resent")


class Authorizer(Protocol):
    """Decides on packets of one kind."""

    def authorize(self, packet: bytes, source: bytes, now_ms: int) -> Verdict:
        """Return the verdict on a packet from `source` (a packed address) at `now_ms`, ms since the epoch."""


class Verifier(Worker):
    """The process that verifies signed knocks, as the daemon uses it."""

    def __init__(
        self,
        log: LogSocket[LoggedDatagram],
        load: Callable[[], Authorizers],
        is_for_browsers: bool,
    ) -> None:
        """Start it; `load` is called in it, with the daemon's rights, and may raise a DoorwardError."""
        identity = privileges.service_identity()
        self.ready: VerifierReady | None = None
        super().__init__("doorward-verify", lambda daemon: _verify(log, daemon, identity, load, is_for_browsers))

    def read(self) -> VerifierReady | VerifierReport | None:
        """Return the next message, or None. MalformedError: the process ended, or sent an invalid message."""
        raw = self.receive(_MESSAGE_BYTES)
        if raw is None:
            return None
        if not raw:
            raise MalformedError("process-ended", "the process ended")
        if self.ready is not None:
            return parse_report(raw)
        self.ready = parse_ready(raw)
        return self.ready

    def finish(self) -> Iterator[VerifierReport]:
        """Have it exit once it has reported on the datagrams that it took from the log; yield these reports."""
        self.socket.shutdown(socket.SHUT_WR)
        waiting, deadline_s = select.poll(), time.monotonic() + _FINISH_S
        waiting.register(self, select.POLLIN)
        with suppress(MalformedError):  # raised at its end
            while (left_s := deadline_s - time.monotonic()) > 0 and waiting.poll(left_s * 1000):
                if isinstance(report := self.read(), VerifierReport):
                    yield report


def _verify(
    log: LogSocket[LoggedDatagram],
    daemon: socket.socket,
    identity: privileges.Identity | None,
    load: Callable[[], Authorizers],
    is_for_browsers: bool,
) -> None:
    try:
        authorizers = load()
        give_up_everything(identity, [log], daemon)
    except (DoorwardError, OSError) as error:
        daemon.send(pack_ready(VerifierReady([], str(error))))
    else:
        signed, fwknop, faults, port = authorizers
        daemon.send(pack_ready(VerifierReady(faults, "", frozenset() if fwknop is None else fwknop.stanzas)))
        _judge_all(log, daemon, VerifierQueue(signed, fwknop, port, is_for_browsers=is_for_browsers))


def _judge_all(log: LogSocket[LoggedDatagram], daemon: socket.socket, queue: VerifierQueue) -> None:
    """Verify the datagrams of the log until the daemon exits or has shut down its end of the socket (`finish`).

    It then reads no more of the log, and verifies what waits.
    """
    waiting = select.poll()
    waiting.register(daemon, select.POLLRDHUP)
    waiting.register(log, select.POLLIN)
    while True:
        limit_ms = 0 if queue.has_waiting else _COUNTS_EVERY_S * 1000 if queue.counts else None
        is_last = daemon.fileno() in dict(waiting.poll(limit_ms))
        if is_last and not queue.has_waiting:
            return
        for report in queue.run([] if is_last else log.read(), time.time(), time.monotonic()):
            daemon.send(pack_report(report))


class VerifierQueue:
    """Verify datagrams, and collect the reports. Pure: times are arguments, in seconds."""

    def __init__(
        self,
        judge: Authorizer,
        fwknop: Authorizer | None = None,
        fwknop_port: int = 0,
        *,
        is_for_browsers: bool = False,
    ) -> None:
        self._judge, self._fwknop, self._is_for_browsers = judge, fwknop, is_for_browsers
        self._fwknop_port = fwknop_port
        self._waiting = deque[UdpDatagram]()  # packets of fwknop's clients
        # Apart: anyone who has the server's key can fill the memory of rejected frames.
        self._accepted, self._rejected = BrowserFrames(), BrowserFrames()
        self._remembered: OrderedDict[bytes, None] = OrderedDict()  # finding the oldest key of a dict is slow
        self.counts: Counter[str] = Counter()
        self._limit, self._reported_s = TokenBucket(REJECTIONS_PER_S, REJECTIONS_AT_ONCE), 0.0

    @property
    def has_waiting(self) -> bool:
        """Return whether packets wait for the next call of `run`."""
        return bool(self._waiting)

    def run(self, datagrams: list[LoggedDatagram] | None, wall_s: float, now_s: float) -> list[VerifierReport]:
        """Verify these datagrams (None: some were lost); return the reports that are due.

        Of fwknop's packets, each of which may take as long as a hundred signed knocks, it verifies one and keeps the
        others, so that signed knocks wait for one at most.
        """
        if datagrams is None:
            self.counts["lost"] += 1
            datagrams = []
        knocks: list[ValidKnock] = []
        refused: list[Rejection] = []
        repeats: list[FrameRepeat] = []
        for udp, interface, verdict in self._verdicts(datagrams, round(wall_s * 1000), now_s):
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
                knocks[at : at + MAX_PER_REPORT],
                refused[at : at + MAX_PER_REPORT],
                {},
                tuple(repeats[at : at + MAX_PER_REPORT]),
            )
            for at in range(0, max(len(knocks), len(refused), len(repeats), 1), MAX_PER_REPORT)
        ]
        return [reports[0]._replace(counts=counts), *reports[1:]]

    def _verdicts(
        self, datagrams: list[LoggedDatagram], now_ms: int, now_s: float
    ) -> Iterator[tuple[UdpDatagram, int, Verdict | FrameRepeat]]:
        frames = 0
        for udp, interface in datagrams:
            is_of_fwknop = self._is_of_fwknop(udp)
            is_of_browser = self._is_for_browsers and is_frame(udp.payload)
            frames += is_of_browser
            if is_of_fwknop and len(self._waiting) < _MAX_WAITING:
                self._waiting.append(udp)
            elif is_of_fwknop or (is_of_browser and frames > MAX_FRAMES_AT_ONCE):
                self.counts["crowded"] += 1
            elif is_of_browser:
                yield udp, interface, self._frame(udp, interface, now_ms, now_s)
            else:
                yield udp, interface, self._packet(self._judge, udp.source, udp.payload, now_ms)
        if self._fwknop is not None and self._waiting:
            udp = self._waiting.popleft()
            yield udp, 0, self._packet(self._fwknop, udp.source, udp.payload, now_ms)._replace(kind=FWKNOP)

    def _is_of_fwknop(self, udp: UdpDatagram) -> bool:
        """Return whether it is tried with the shared keys: only where the kernel limits how many are."""
        is_there = self._fwknop is not None and udp.port == self._fwknop_port and len(udp.source) == _IPV4_BYTES
        return is_there and is_candidate(udp.payload)

    def _frame(self, udp: UdpDatagram, interface: int, now_ms: int, now_s: float) -> Verdict | FrameRepeat:
        try:
            packet = unwrap(udp.payload)
        except MalformedError:
            return KnockRejection("stun")
        check, path = packet[:CHECK_BYTES], _path_of(udp, interface)
        verdict = self._packet(self._judge, udp.source, packet, now_ms)
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

    def _packet(self, judge: Authorizer, source: bytes, packet: bytes, now_ms: int) -> Verdict:
        check = packet[:CHECK_BYTES]
        if check in self._remembered or check + source in self._remembered:  # a copy
            return _COPY
        verdict = judge.authorize(packet, source, now_ms)
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
