"""What the process that verifies signed knocks tells the daemon: a takeover of it must not reach further."""

from __future__ import annotations

from doorward.daemon.verifier_report import pack_report, parse_report
from doorward.errors import MalformedError


def one(data: bytes) -> None:
    """Read a message; what is taken says no more than it has a form for."""
    try:
        report = parse_report(data)
    except MalformedError:
        return
    assert parse_report(pack_report(report)) == report
    assert all(len(knock.id) == 16 and len(knock.signer) == 12 for knock in report.knocks)
    assert all(knock.for_ms is None or knock.for_ms >= 0 for knock in report.knocks)
    assert all(len(repeat.id) == 16 and len(repeat.transaction) == 12 for repeat in report.repeats)
    assert all(knock.transaction is None or len(knock.transaction) in {0, 12} for knock in report.knocks)
    assert all(refused.words.isprintable() for _, refused in report.refused)
