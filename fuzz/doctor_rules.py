"""Other firewalls' rules as iptables-save and nft print them, and nf_tables' reports of packets: never a traceback."""

from __future__ import annotations

from contextlib import suppress

from doorward.doctor.frames import parse_event
from doorward.doctor.rules import ForeignRuleset, first_difference, rejected_line
from doorward.errors import MalformedError


def one(data: bytes) -> None:
    """Read the bytes as either program's text, as an error message of theirs, and as a report."""
    text = data.decode(errors="replace")
    for owner in ("nft", "iptables-nft"):
        ruleset = ForeignRuleset(owner, "ip", "filter", text)
        assert first_difference(ruleset, text) is None
        list(ruleset.uncheckable_rules())
        list(ruleset.helpers())
        rejected_line(text, text)
    with suppress(MalformedError):
        parse_event(memoryview(data))
