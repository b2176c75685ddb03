"""What the process that reads packets tells the daemon: a takeover of it must not reach further."""

from __future__ import annotations

from doorward.daemon.nflog_reader import WHATS, pack_events, parse_events
from doorward.errors import MalformedError


def one(data: bytes) -> None:
    """Read a message; what is taken says no more than the message did."""
    try:
        events = parse_events(data)
    except MalformedError:
        return
    assert pack_events(events) == data
    assert all(event.what in WHATS for event in events)
