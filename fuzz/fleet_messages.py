"""What the daemon and the process that speaks to etcd tell each other: a takeover of it must not reach further."""

from __future__ import annotations

from doorward.errors import MalformedError
from doorward.fleet import protocol


def one(data: bytes) -> None:
    """Read a message; what is taken says no more than it has a form for."""
    try:
        message = protocol.parse(data)
    except MalformedError:
        return
    assert protocol.parse(protocol.pack(message)) == message
    if isinstance(message, protocol.LogMessage):
        assert message.words.isprintable()
