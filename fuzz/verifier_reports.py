"""What the process that verifies signed knocks tells the daemon: a takeover of it must not reach further."""

from __future__ import annotations

from doorward.daemon.verifier import pack_report, parse_report
from doorward.errors import MalformedError


def one(data: bytes) -> None:
    """Read a message; what is taken says no more than it has a form for."""
    try:
        report = parse_report(data)
    except MalformedError:
        return
    assert parse_report(pack_report(report)) == report
    assert all(len(grant.id) == 16 and grant.for_ms >= 0 for grant in report.granted)
    assert all(refused.words.isprintable() for _, refused in report.refused)
