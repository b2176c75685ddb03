"""What the kernel sends to the gate's log group: netlink messages that carry strangers' packets."""

from __future__ import annotations

from contextlib import suppress

from doorward.errors import MalformedError
from doorward.kernel import netlink
from doorward.kernel.nflog import parse_event


def one(data: bytes) -> None:
    """Read what one recv gave."""
    with suppress(MalformedError):
        for message in netlink.messages(memoryview(data)):
            with suppress(MalformedError):
                event = parse_event(message.body)
                assert event.what in {"knock", "full", "throttled", "step", "wrong"}
                assert 0 <= event.state < 1 << 32
