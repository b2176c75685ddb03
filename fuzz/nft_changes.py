"""What nf_tables tells of transactions, and of what a table has."""

from __future__ import annotations

from contextlib import suppress

from doorward.errors import MalformedError
from doorward.kernel import netlink
from doorward.nftables.monitor import RulesetMonitor
from doorward.nftables.nfnetlink import chain_in, counter_in, elements_in, fill_in, set_in

HARMS = {"", "openings", "rules"}


def one(data: bytes) -> None:
    """Read what one recv gave as both."""
    watch = object.__new__(RulesetMonitor)  # of its own accord it asks the kernel for a socket
    watch._harm = ""
    with suppress(MalformedError):
        assert all(change.scope in HARMS for change in watch._changes(data))
    with suppress(MalformedError):
        for message in netlink.messages(memoryview(data)):
            _thing(message.body)


def _thing(body: memoryview) -> None:
    for read in (chain_in, set_in):
        with suppress(MalformedError):
            thing = read(body)
            assert thing is None or 0 <= thing.size < 1 << 32
    with suppress(MalformedError):
        fill = fill_in(body)
        assert fill is None or all(0 <= number < 1 << 32 for number in (fill.elements or 0, fill.size))
    for family, address_bytes in ((4, 4), (6, 16)):
        with suppress(MalformedError):
            assert all(attempt.source.version == family for attempt in elements_in(body, address_bytes))
    with suppress(MalformedError):
        counted = counter_in(body)
        assert counted is None or 0 <= counted[1] < 1 << 64
