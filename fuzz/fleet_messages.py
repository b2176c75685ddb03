"""What the daemon and the process that speaks to etcd tell each other: a takeover of it must not reach further."""

from __future__ import annotations

from doorward.errors import MalformedError
from doorward.fleet import talk


def one(data: bytes) -> None:
    """Read a message; what is taken says no more than it has a form for."""
    try:
        message = talk.parse(data)
    except MalformedError:
        return
    assert talk.parse(talk.pack(message)) == message
    if isinstance(message, talk.Say):
        assert message.words.isprintable()
