"""The messages from the verifier to the daemon, and that it accepts no others."""

from __future__ import annotations

import json
from ipaddress import ip_address, ip_network

import pytest

from doorward.config.schema import MAX_STANZAS
from doorward.daemon.verifier_report import (
    Rejection,
    VerifierReady,
    VerifierReport,
    pack_ready,
    pack_report,
    parse_ready,
    parse_report,
)
from doorward.errors import MalformedError
from doorward.signed.authorize import KnockRejection, ValidKnock
from doorward.signed.reply import ReplySecret

GUEST = ip_address("192.0.2.7")
KNOCK = ValidKnock("ssh", GUEST, 30_000, "laptop", bytes(12), bytes(16), 1_800_000_000_000)
CLOSE = KNOCK._replace(for_ms=None)


def test_a_message_is_read_as_it_was_packed() -> None:
    wide = KNOCK._replace(source=ip_network("2001:db8::/64"))
    report = VerifierReport(
        [KNOCK._replace(id=b"7" * 16), wide, CLOSE, wide._replace(reply=ReplySecret(b"s" * 32))],
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
        pack_report(VerifierReport([KNOCK] * 37, [], {})),
        pack_report(VerifierReport([KNOCK], [], {})).replace(b"ssh", b"s\\nh"),
        pack_report(VerifierReport([KNOCK], [], {})).replace(b'"signer": "00', b'"signer": "'),
        pack_report(VerifierReport([KNOCK], [], {})).replace(b'"reply": null', b'"reply": "00"'),
        pack_report(VerifierReport([KNOCK], [], {})).replace(b'"reply": null', b'"reply": 7'),
        pack_report(VerifierReport([CLOSE], [], {})).replace(b'"time_ms": 1', b'"time_ms": 1000'),
        pack_report(VerifierReport([CLOSE], [], {})).replace(b'"time_ms"', b'"more": 1, "time_ms"'),
        pack_report(VerifierReport([CLOSE], [], {})).replace(b'"for_ms": null, ', b""),
        pack_report(VerifierReport([KNOCK], [], {})).replace(b"laptop", b"lap\\u001btop"),
        pack_report(VerifierReport([KNOCK], [], {})).replace(b"30000", b"1e400"),
        pack_report(VerifierReport([KNOCK], [], {})).replace(b'"192.0.2.7"', b"7"),
    ],
)
def test_any_other_message_is_refused(raw: bytes) -> None:
    with pytest.raises(MalformedError):
        parse_report(raw)


@pytest.mark.parametrize("transaction", ["00" * 11, "00" * 13, "zz" * 12, "", 7, None])
def test_a_repeat_of_another_form_is_not_taken(transaction: object) -> None:
    raw = json.dumps({"knocks": [], "refused": [], "counts": {}, "repeats": [["00" * 16, transaction]]}).encode()
    with pytest.raises(MalformedError):
        parse_report(raw)


def test_the_first_message_always_fits_and_names_stanzas_only() -> None:
    names = frozenset(f"{number:064}" for number in range(MAX_STANZAS))
    raw = pack_ready(VerifierReady(["\U0001f600" * 1000] * 1000, "", names))
    assert len(raw) <= 1 << 17
    ready = parse_ready(raw)
    assert (len(ready.faults), ready.trouble, ready.stanzas) == (30, "", names)
    for stanzas in (["no name"], [7], [*names, "one-more"], 7, None):
        with pytest.raises(MalformedError):
            parse_ready(json.dumps({"faults": [], "trouble": "", "stanzas": stanzas}).encode())


def test_doors_and_kind_are_in_the_message() -> None:
    several = KNOCK._replace(kind="fwknop packet", also=("web", "mail"))
    report = VerifierReport([several], [Rejection(GUEST, KnockRejection("clock", "is late", kind="fwknop packet"))], {})
    assert parse_report(pack_report(report)) == report
    for field, value in (("kind", "letter"), ("also", ["no door"]), ("also", ["ssh"] * 32), ("also", "ssh")):
        message = json.loads(pack_report(report))
        message["knocks"][0][field] = value
        with pytest.raises(MalformedError):
            parse_report(json.dumps(message).encode())
