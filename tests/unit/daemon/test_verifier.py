"""What the verifier reports, with verdicts of the test's own."""

from __future__ import annotations

import os
import select
import signal
import socket
from ipaddress import ip_address, ip_network
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorward.daemon import browser_frames, verifier
from doorward.daemon.browser_frames import ANSWER_S, MAX_ANSWERS, RESENT_S, FrameRepeat
from doorward.daemon.verifier import MAX_FRAMES_AT_ONCE, REJECTIONS_AT_ONCE, Verifier, VerifierQueue
from doorward.daemon.verifier_report import VerifierReady, VerifierReport, pack_ready, pack_report, parse_report
from doorward.kernel.child_process import Worker
from doorward.kernel.nflog import LoggedDatagram
from doorward.packets.packet import UdpDatagram
from doorward.signed.authorize import KnockRejection, ValidKnock, Verdict
from doorward.signed.reply import ReplyPath, ReplySecret
from doorward.signed.stun import TRANSACTION_BYTES, ice_password, unwrap
from tests.support.daemon import until
from tests.support.stun import stun_request

GUEST, SERVER = ip_address("192.0.2.7"), ip_address("192.0.2.1")
WALL_S = 1_800_000_000.0


def grant(number: int = 0) -> ValidKnock:
    return ValidKnock("ssh", GUEST, 30_000, "laptop", bytes(12), number.to_bytes(16), 1_800_000_000_000)


CLOSE = ValidKnock("ssh", GUEST, None, "laptop", bytes(12), bytes(16), 1_800_000_000_000)


class Authorizer:
    """Grants a G, an F from GUEST alone, closes for a C; refuses an R for good, and takes the rest for garbage."""

    def authorize(self, packet: bytes, source: bytes, now_ms: int) -> Verdict:
        assert now_ms == 1000 * WALL_S
        if packet.startswith(b"G") or (packet.startswith(b"F") and source == GUEST.packed):
            return grant()
        if packet.startswith(b"C"):
            return CLOSE
        if packet.startswith(b"F"):
            return KnockRejection("forbidden", "may not knock from there")
        return KnockRejection("clock", "is late") if packet.startswith(b"R") else KnockRejection("check")


def queue() -> VerifierQueue:
    return VerifierQueue(Authorizer())


def packet(kind: str, number: int = 0) -> LoggedDatagram:
    payload = kind.encode() + number.to_bytes(15) + b"the rest"
    return LoggedDatagram(UdpDatagram(GUEST.packed, 40_000, SERVER.packed, 62201, payload), 2)


def test_grants_are_reported_at_once() -> None:
    assert queue().run([packet("G")], WALL_S, 0.0) == [VerifierReport([grant()], [], {})]


def test_garbage_is_only_counted_and_reported_once_per_second() -> None:
    here = queue()
    assert here.run([packet("x", number) for number in range(5)], WALL_S, 10.0) == [
        VerifierReport([], [], {"check": 5})
    ]
    assert here.run([packet("x")], WALL_S, 10.5) == []
    assert here.run([packet("x")], WALL_S, 11.0) == [VerifierReport([], [], {"check": 2})]
    assert here.run([], WALL_S, 13.0) == []


def test_copy_is_not_granted_again() -> None:
    here = queue()
    here.run([packet("G"), packet("R")], WALL_S, 0.0)
    (report,) = here.run([packet("G"), packet("R"), packet("G")], WALL_S, 5.0)
    assert report.knocks == []
    assert [telling.refused.reason for telling in report.refused] == ["repeated"] * 3


def test_a_copy_from_a_forbidden_place_does_not_spoil_the_packet() -> None:
    here, real = queue(), packet("F")
    copy = real._replace(udp=real.udp._replace(source=ip_address("203.0.113.9").packed))
    (report,) = here.run([copy, copy, real, copy, real], WALL_S, 0.0)
    assert report.knocks == [grant()]
    assert report.counts == {"forbidden": 1, "repeated": 3}


def test_openings_and_closings_keep_their_order() -> None:
    packets = [packet("G", 0), packet("C", 1), packet("G", 2)]
    assert queue().run(packets, WALL_S, 0.0) == [VerifierReport([grant(), CLOSE, grant()], [], {})]


def test_garbage_is_not_remembered() -> None:
    here = queue()
    here.run([packet("x")] * 3, WALL_S, 3.0)
    assert here.run([packet("x")], WALL_S, 5.0)[0].counts == {"check": 1}


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifier, "MAX_REMEMBERED", 10)
    here = queue()
    here.run([packet("R", number) for number in range(11)], WALL_S, 0.0)
    (report,) = here.run([packet("R", 0), packet("R", 10)], WALL_S, 5.0)
    assert [telling.refused.reason for telling in report.refused] == ["clock", "repeated"]


def test_rejections_are_reported_up_to_a_limit_and_all_counted() -> None:
    reports = queue().run([packet("R", number) for number in range(1000)], WALL_S, 0.0)
    assert sum(len(report.refused) for report in reports) == REJECTIONS_AT_ONCE
    assert reports[0].counts == {"clock": 1000}
    assert all(len(pack_report(report)) < 1 << 17 for report in reports)


def test_many_knocks_are_reported_in_several_messages() -> None:
    reports = queue().run([packet("G", number) for number in range(250)], WALL_S, 0.0)
    assert [len(report.knocks) for report in reports] == [36] * 6 + [34]


def test_untrusted_text_always_fits_in_a_message() -> None:
    """A certificate's names are its maker's, and a message that does not fit would end the verifier."""
    wide = "\U0001f600" * 500
    here = VerifierQueue(Authorizer())
    knock = grant()._replace(
        door="d" * 64,
        key=wide[:145],
        source=ip_network("2001:db8:ffff:ffff:ffff::/81"),
        time_ms=(1 << 48) - 1,
        for_ms=(1 << 32) * 1000 - 1000,
        reply=ReplySecret(bytes(32)),
        transaction=bytes(12),
    )
    here._judge.authorize = lambda packet, *_: (  # type: ignore[method-assign]
        knock if packet.startswith(b"G") else KnockRejection("key", wide, "d" * 64)
    )
    reports = here.run([packet(kind, number) for number in range(200) for kind in "GR"], WALL_S, 0.0)
    assert sum(len(report.refused) for report in reports) == 200
    for report in reports:
        raw = pack_report(report)
        assert len(raw) <= 1 << 17
        assert parse_report(raw) == report


def test_a_log_that_lost_some_is_counted() -> None:
    assert queue().run(None, WALL_S, 1.0) == [VerifierReport([], [], {"lost": 1})]


SECRET = ReplySecret(b"s" * 32)
TRANSACTION = bytes(range(12))
OTHER = bytes(12)


def browser_desk() -> VerifierQueue:
    """Grants a G that wants a confirmation, and rejects as above."""
    here = VerifierQueue(Authorizer(), is_for_browsers=True)
    real = here._judge.authorize

    def authorize(packet: bytes, source: bytes, now_ms: int) -> Verdict:
        assert len(packet) == 190
        verdict = real(packet, source, now_ms)
        return verdict._replace(reply=SECRET) if isinstance(verdict, ValidKnock) else verdict

    here._judge.authorize = authorize  # type: ignore[method-assign]
    return here


def frame(kind: str = "G", number: int = 0, transaction: bytes = TRANSACTION, **udp: object) -> LoggedDatagram:
    """A browser's frame; a wrong `password` makes its integrity wrong."""
    password = udp.pop("password", ice_password(SECRET))
    assert isinstance(password, bytes)
    raw = (kind.encode() + number.to_bytes(15)).ljust(190, b"x")
    payload = stun_request(raw, b"abcd", transaction, password)
    whole = UdpDatagram(GUEST.packed, 40_000, SERVER.packed, 62201, payload)
    return LoggedDatagram(whole._replace(**udp), 2)  # type: ignore[arg-type]


def test_a_browsers_knock_and_its_repeats() -> None:
    """The first is granted; those from the same address and port are answered, as many as the limit allows."""
    here = browser_desk()
    path = ReplyPath(GUEST, 40_000, SERVER, 62201, 2)
    (report,) = here.run([frame(), frame(transaction=OTHER)], WALL_S, 0.0)
    knock = grant()._replace(reply=SECRET, path=path, transaction=TRANSACTION)
    assert report == VerifierReport([knock], [], {"resent": 1}, (FrameRepeat(knock.id, OTHER),))
    assert parse_report(pack_report(report)) == report
    found = [here.run([frame()], WALL_S, ANSWER_S - 0.1)[0].repeats for _ in range(MAX_ANSWERS - 2)]
    assert all(found)
    assert here.run([frame()] * 3, WALL_S, ANSWER_S - 0.01) == []  # counted later
    assert here.counts["resent"] == 3


def test_only_recent_repeats_from_the_same_place_with_a_right_integrity_are_answered() -> None:
    here = browser_desk()
    here.run([frame()], WALL_S, 0.0)
    elsewhere = ip_address("203.0.113.9").packed
    others = [
        frame(source_port=40_001),
        frame(port=443),
        frame(destination=elsewhere),
        frame(password=b"guessed"),
        frame(source=elsewhere),
    ]
    (report,) = here.run(others, WALL_S, 1.0)
    assert report.repeats == ()
    assert report.counts == {"resent": 4, "repeated": 1}
    (rejection,) = report.refused  # the one from another address
    assert (rejection.source.packed, rejection.refused.reason) == (elsewhere, "repeated")
    assert here.run([frame()], WALL_S, ANSWER_S)[0].repeats == ()
    (report,) = here.run([frame()], WALL_S, RESENT_S)
    assert [each.refused.reason for each in report.refused] == ["repeated"]


def test_first_frame_with_a_wrong_integrity_still_opens_and_a_right_one_is_answered() -> None:
    here = browser_desk()
    (report,) = here.run([frame(password=b"guessed"), frame()], WALL_S, 0.0)
    assert [knock.transaction for knock in report.knocks] == [b""]
    assert report.repeats == (FrameRepeat(grant().id, TRANSACTION),)


def test_raw_packet_and_frame_with_one_packet_are_copies_of_each_other() -> None:
    for first, second in ((frame(), packet_of(frame())), (packet_of(frame()), frame())):
        (report,) = browser_desk().run([first, second], WALL_S, 0.0)
        assert len(report.knocks) == 1
        assert [each.refused.reason for each in report.refused] == ["repeated"]
        assert report.repeats == ()


def packet_of(framed: LoggedDatagram) -> LoggedDatagram:
    return framed._replace(udp=framed.udp._replace(payload=unwrap(framed.udp.payload)))


def test_repeats_of_a_rejected_frame_are_not_recorded() -> None:
    (report,) = browser_desk().run([frame("R")] * 40, WALL_S, 0.0)
    assert report.counts == {"clock": 1, "resent": 39}
    assert [each.refused.words for each in report.refused] == ["by browser: is late"]


def test_garbage_in_frames_is_only_counted() -> None:
    broken = [frame("x"), frame("G"), frame("G")]
    payloads = [broken[0].udp.payload, broken[1].udp.payload[:299], broken[2].udp.payload.replace(b":", b";")]
    frames = [LoggedDatagram(each.udp._replace(payload=raw), 2) for each, raw in zip(broken, payloads, strict=True)]
    assert browser_desk().run(frames, WALL_S, 1.0) == [VerifierReport([], [], {"check": 1, "stun": 2})]


def test_frames_that_wait_together_do_not_delay_raw_packets() -> None:
    """Of many only the first are verified; what a browser sends again later is, too."""
    here = browser_desk()
    many = [frame("G", number) for number in range(MAX_FRAMES_AT_ONCE + 3)]
    (report, *more) = here.run([*many, packet_of(frame("G", 100)), many[-1]], WALL_S, 0.0)
    accepted = [knock for each in (report, *more) for knock in each.knocks]
    assert [knock.transaction is None for knock in accepted] == [False] * MAX_FRAMES_AT_ONCE + [True]
    assert report.counts == {"crowded": 4}
    assert len(here.run([many[-1]], WALL_S, 1.0)[0].knocks) == 1


def test_without_browser_a_frame_is_a_packet_as_any_other() -> None:
    (report,) = queue().run([frame()], WALL_S, 1.0)
    assert report == VerifierReport([], [], {"check": 1})


def test_frames_that_are_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is dropped is a copy as any other, and opens nothing."""
    monkeypatch.setattr(browser_frames, "MAX_FRAMES", 2)
    here = browser_desk()
    here.run([frame("G", number) for number in range(3)], WALL_S, 0.0)
    (report,) = here.run([frame("G", 0), frame("G", 2)], WALL_S, 1.0)
    assert (report.knocks, len(report.repeats)) == ([], 1)
    assert report.counts == {"repeated": 1, "resent": 1}
    (report,) = here.run([*(frame("R", number) for number in range(9)), frame("G", 2)], WALL_S, 2.0)
    assert len(report.repeats) == 1  # rejected ones do not crowd out accepted ones


FRAME_PLACES = [GUEST.packed, ip_address("203.0.113.9").packed]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(FRAME_PLACES), st.sampled_from([1, 2]), st.booleans(), st.sampled_from([0.0, 0.5, 3])
        ),
        max_size=40,
    )
)
def test_no_order_of_frames_gets_more_than_its_answers(frames: list[tuple[bytes, int, bool, float]]) -> None:
    """One packet opens once, and is answered to its first place alone, as often and as long as the limits allow."""
    here, now_s, answers, first = browser_desk(), 0.0, 0, None
    for number, (source, port, is_right, step_s) in enumerate(frames):
        now_s += step_s
        password = ice_password(SECRET) if is_right else b"guessed"
        transaction = number.to_bytes(TRANSACTION_BYTES)
        one = frame(transaction=transaction, source=source, source_port=port, password=password)
        reports = here.run([one], WALL_S, now_s)
        knocks = [knock for report in reports for knock in report.knocks]
        repeats = [repeat for report in reports for repeat in report.repeats]
        assert len(knocks) == (first is None)
        first = first or (source, port, now_s)
        if repeats or (knocks[0:1] and knocks[0].transaction):
            answers += 1
            assert (source, port, is_right) == (*first[:2], True)
            assert now_s < first[2] + ANSWER_S
            assert not repeats or repeats == [FrameRepeat(grant().id, transaction)]
    assert answers <= MAX_ANSWERS


class SharedKeys:
    """Grants a packet that begins with A, and takes the rest for garbage."""

    def authorize(self, packet: bytes, source: bytes, now_ms: int) -> Verdict:
        return grant() if packet.startswith(b"A") else KnockRejection("fwknop")


def of_fwknop(letter: str, source: bytes = GUEST.packed, port: int = 62201) -> LoggedDatagram:
    return LoggedDatagram(UdpDatagram(source, 40_000, SERVER.packed, port, letter.encode() * 140), 2)


def test_one_packet_of_fwknop_between_two_looks_at_the_log() -> None:
    here = VerifierQueue(Authorizer(), SharedKeys(), 62201)
    (report,) = here.run([of_fwknop("A"), of_fwknop("B"), of_fwknop("D"), packet("G")], WALL_S, 0.0)
    assert [knock.kind for knock in report.knocks] == ["signed knock", "fwknop packet"]
    assert here.has_waiting
    assert here.run([], WALL_S, 0.1) == []
    (report,) = here.run([], WALL_S, 2.0)
    assert report.counts == {"fwknop": 2}
    assert not here.has_waiting


def test_packets_of_fwknop_that_wait_are_bounded() -> None:
    here = VerifierQueue(Authorizer(), SharedKeys(), 62201)
    (report,) = here.run([of_fwknop("B")] * 300, WALL_S, 2.0)
    assert report.counts == {"crowded": 300 - 256, "fwknop": 1}


def test_without_stanzas_over_ipv6_or_at_another_port_a_packet_of_fwknop_is_garbage() -> None:
    for here, source, port in (
        (queue(), GUEST.packed, 62201),
        (VerifierQueue(Authorizer(), SharedKeys(), 62201), ip_address("2001:db8::7").packed, 62201),
        (VerifierQueue(Authorizer(), SharedKeys(), 62201), GUEST.packed, 53),
    ):
        assert here.run([of_fwknop("A", source, port)], WALL_S, 2.0) == [VerifierReport([], [], {"check": 1})]


class FinishingVerifier(Verifier):
    """A verifier that has taken a datagram from its log, and verifies it when the daemon has it finish."""

    def __init__(self) -> None:
        self.ready = None
        Worker.__init__(self, "doorward-verify", self._verify)

    def _verify(self, daemon: socket.socket) -> None:
        def read() -> list[LoggedDatagram]:
            daemon.send(pack_ready(VerifierReady([], "")))
            ended = select.poll()
            ended.register(daemon, select.POLLRDHUP)
            ended.poll()
            return [packet("G"), of_fwknop("A"), of_fwknop("AB")]

        log = SimpleNamespace(fileno=lambda: os.open(os.devnull, os.O_RDONLY), read=read)
        always = SimpleNamespace(authorize=lambda *_: grant())
        verifier._judge_all(cast(Any, log), daemon, VerifierQueue(cast(Any, always), SharedKeys(), 62201))


def test_a_verifier_that_is_replaced_reports_on_what_it_took() -> None:
    """Nobody else sees these datagrams: a knock during a reload would be lost."""
    replaced = FinishingVerifier()
    until(lambda: replaced.read() is not None)
    kinds = [[knock.kind for knock in report.knocks] for report in replaced.finish()]
    assert kinds == [["signed knock", "fwknop packet"], ["fwknop packet"]]
    assert replaced.close() in (0, -signal.SIGKILL)


def test_a_verifier_that_does_not_finish_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifier, "_FINISH_S", 0.01)
    stuck = FinishingVerifier.__new__(FinishingVerifier)
    Worker.__init__(stuck, "doorward-verify", lambda _: signal.pause())
    stuck.ready = VerifierReady([], "")
    assert list(stuck.finish()) == []
    assert stuck.close() == -signal.SIGKILL
