"""What nf_tables tells of transactions, and of what a table has."""

from __future__ import annotations

from contextlib import suppress

from doorward.errors import MalformedError
from doorward.kernel import netlink
from doorward.nftables.monitor import RulesetMonitor
from doorward.nftables.nfnetlink import parse_chain, parse_counter, parse_elements, parse_set, parse_usage

HARMS = {"", "openings", "rules"}


def one(data: bytes) -> None:
    """Read what one recv gave as both."""
    watch = object.__new__(RulesetMonitor)  # of its own accord it asks the kernel for a socket
    watch._scope = ""
    with suppress(MalformedError):
        assert all(change.scope in HARMS for change in watch._changes(data))
    with suppress(MalformedError):
        for message in netlink.messages(memoryview(data)):
            _thing(message.body)


def _thing(body: memoryview) -> None:
    for read in (parse_chain, parse_set):
        with suppress(MalformedError):
            thing = read(body)
            assert thing is None or 0 <= thing.size < 1 << 32
    with suppress(MalformedError):
        fill = parse_usage(body)
        assert fill is None or all(0 <= number < 1 << 32 for number in (fill.elements or 0, fill.size))
    for family, address_bytes in ((4, 4), (6, 16)):
        with suppress(MalformedError):
            assert all(attempt.source.version == family for attempt in parse_elements(body, address_bytes))
    with suppress(MalformedError):
        counted = parse_counter(body)
        assert counted is None or 0 <= counted[1] < 1 << 64
