"""What nmap writes as XML."""

from __future__ import annotations

from contextlib import suppress

from doorward.errors import MalformedError
from doorward.verify.nmap_xml import NmapReader


def one(data: bytes) -> None:
    """Read it in two pieces and in one: the same, or both refused."""
    outcomes = []
    for cut in (0, len(data) // 2):
        with suppress(MalformedError):
            reader = NmapReader()
            reader.feed(data[:cut])
            reader.feed(data[cut:])
            assert 0 <= reader.percent < 1000
            outcomes.append(reader.result())
    assert len(outcomes) != 1
    assert len({str(outcome) for outcome in outcomes}) <= 1
