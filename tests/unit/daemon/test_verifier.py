"""What the verifier tells: its desk, with a judge of the test's own, and its messages."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from doorward.daemon import verifier
from doorward.daemon.verifier import (
    REJECTIONS_AT_ONCE,
    Rejection,
    VerifierQueue,
    VerifierReport,
    pack_report,
    parse_report,
)
from doorward.errors import MalformedError
from doorward.kernel.nflog import LoggedDatagram
from doorward.packets.packet import UdpDatagram
from doorward.signed.authorize import KnockClose, KnockGrant, KnockRejection, Verdict
from doorward.signed.reply import ReplySecret

GUEST, SERVER = ip_address("192.0.2.7"), ip_address("192.0.2.1")
WALL_S = 1_800_000_000.0


def grant(number: int = 0) -> KnockGrant:
    return KnockGrant("ssh", GUEST, 30_000, "laptop", bytes(12), number.to_bytes(16), 1_800_000_000_000)


CLOSE = KnockClose("ssh", GUEST, "laptop", bytes(12), bytes(16), 1_800_000_000_000)


class Judging:
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


def desk() -> VerifierQueue:
    return VerifierQueue(Judging())  # type: ignore[arg-type]


def packet(kind: str, number: int = 0) -> LoggedDatagram:
    payload = kind.encode() + number.to_bytes(15) + b"the rest"
    return LoggedDatagram(UdpDatagram(GUEST.packed, 40_000, SERVER.packed, 62201, payload), 2)


def test_grants_are_reported_at_once() -> None:
    assert desk().run([packet("G")], WALL_S, 0.0) == [VerifierReport([grant()], [], {})]


def test_garbage_is_only_counted_and_reported_once_per_second() -> None:
    here = desk()
    assert here.run([packet("x", number) for number in range(5)], WALL_S, 10.0) == [
        VerifierReport([], [], {"check": 5})
    ]
    assert here.run([packet("x")], WALL_S, 10.5) == []
    assert here.run([packet("x")], WALL_S, 11.0) == [VerifierReport([], [], {"check": 2})]
    assert here.run([], WALL_S, 13.0) == []


def test_copy_is_not_granted_again() -> None:
    here = desk()
    here.run([packet("G"), packet("R")], WALL_S, 0.0)
    (report,) = here.run([packet("G"), packet("R"), packet("G")], WALL_S, 5.0)
    assert report.knocks == []
    assert [telling.refused.reason for telling in report.refused] == ["repeated"] * 3


def test_a_copy_from_a_forbidden_place_does_not_spoil_the_packet() -> None:
    here, real = desk(), packet("F")
    copy = real._replace(udp=real.udp._replace(source=ip_address("203.0.113.9").packed))
    (report,) = here.run([copy, copy, real, copy, real], WALL_S, 0.0)
    assert report.knocks == [grant()]
    assert report.counts == {"forbidden": 1, "repeated": 3}


def test_openings_and_closings_keep_their_order() -> None:
    packets = [packet("G", 0), packet("C", 1), packet("G", 2)]
    assert desk().run(packets, WALL_S, 0.0) == [VerifierReport([grant(), CLOSE, grant()], [], {})]


def test_garbage_is_not_remembered() -> None:
    here = desk()
    here.run([packet("x")] * 3, WALL_S, 3.0)
    assert here.run([packet("x")], WALL_S, 5.0)[0].counts == {"check": 1}


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifier, "MAX_REMEMBERED", 10)
    here = desk()
    here.run([packet("R", number) for number in range(11)], WALL_S, 0.0)
    (report,) = here.run([packet("R", 0), packet("R", 10)], WALL_S, 5.0)
    assert [telling.refused.reason for telling in report.refused] == ["clock", "repeated"]


def test_rejections_are_reported_up_to_a_limit_and_all_counted() -> None:
    reports = desk().run([packet("R", number) for number in range(1000)], WALL_S, 0.0)
    assert sum(len(report.refused) for report in reports) == REJECTIONS_AT_ONCE
    assert reports[0].counts == {"clock": 1000}
    assert all(len(pack_report(report)) < 1 << 17 for report in reports)


def test_many_knocks_are_reported_in_several_messages() -> None:
    reports = desk().run([packet("G", number) for number in range(250)], WALL_S, 0.0)
    assert [len(report.knocks) for report in reports] == [36] * 6 + [34]


def test_untrusted_text_always_fits_in_a_message() -> None:
    """A certificate's names are its maker's, and a message that does not fit would end the verifier."""
    wide = "\U0001f600" * 500
    here = VerifierQueue(Judging())  # type: ignore[arg-type]
    knock = grant()._replace(
        door="d" * 64,
        key=wide[:145],
        place=ip_network("2001:db8:ffff:ffff:ffff::/81"),
        time_ms=(1 << 48) - 1,
        for_ms=(1 << 32) * 1000 - 1000,
        reply=ReplySecret(bytes(32)),
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
    assert desk().run(None, WALL_S, 1.0) == [VerifierReport([], [], {"lost": 1})]


def test_a_message_is_read_as_it_was_packed() -> None:
    wide = grant()._replace(place=ip_network("2001:db8::/64"))
    report = VerifierReport(
        [grant(7), wide, CLOSE, wide._replace(reply=ReplySecret(b"s" * 32))],
        [Rejection(GUEST, KnockRejection("clock", "is late", "ssh"))],
        {"check": 3},
    )
    assert parse_report(pack_report(report)) == report


def test_words_of_any_kind_fit() -> None:
    long = VerifierReport([], [Rejection(GUEST, KnockRejection("key", "no line of /\n" + 4096 * "x"))], {})
    ((_, refused),) = parse_report(pack_report(long)).refused
    assert refused.words == "no line of /?" + 487 * "x"


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{}",
        b"[]",
        b'{"knocks": [], "refused": [], "counts": {"../": 1}}',
        b'{"knocks": [], "refused": [], "counts": {"check": -1}}',
        b'{"knocks": [], "refused": [], "counts": {"unheard": 1}}',
        b'{"knocks": [], "refused": [], "counts": {"check": 1, "' + 60_000 * b"x" + b'": 1}}',
        b'{"knocks": [{}], "refused": [], "counts": {}}',
        pack_report(VerifierReport([], [Rejection(GUEST, KnockRejection("key"))], {})).replace(b"key", b"unheard"),
        pack_report(VerifierReport([], [Rejection(GUEST, KnockRejection("key"))] * 37, {})),
        pack_report(VerifierReport([grant()] * 37, [], {})),
        pack_report(VerifierReport([grant()], [], {})).replace(b"ssh", b"s\\nh"),
        pack_report(VerifierReport([grant()], [], {})).replace(b'"signer": "00', b'"signer": "'),
        pack_report(VerifierReport([grant()], [], {})).replace(b'"reply": null', b'"reply": "00"'),
        pack_report(VerifierReport([grant()], [], {})).replace(b'"reply": null', b'"reply": 7'),
        pack_report(VerifierReport([CLOSE], [], {})).replace(b'"time_ms": 1', b'"time_ms": 1000'),
        pack_report(VerifierReport([CLOSE], [], {})).replace(b'"time_ms"', b'"more": 1, "time_ms"'),
        pack_report(VerifierReport([grant()], [], {})).replace(b"laptop", b"lap\\u001btop"),
        pack_report(VerifierReport([grant()], [], {})).replace(b"30000", b"1e400"),
        pack_report(VerifierReport([grant()], [], {})).replace(b'"192.0.2.7"', b"7"),
    ],
)
def test_any_other_message_is_refused(raw: bytes) -> None:
    with pytest.raises(MalformedError):
        parse_report(raw)
