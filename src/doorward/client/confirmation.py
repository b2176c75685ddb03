"""Receive the confirmations of signed knocks (docs/reference/signed-knock.md).

The sockets are connected, so the kernel passes on only what comes from the address and port that were knocked at.
"""

from __future__ import annotations

import select
import socket
import time
from typing import NamedTuple

from doorward.client.sequence import Target
from doorward.errors import MalformedError
from doorward.model import Address, Port
from doorward.signed.message import CLOSE, Request
from doorward.signed.reply import REPLY_BYTES, Confirmation, ReplySecret, open_reply

PATIENCE_S = 1.0  # for a confirmation; then the user learns what to check
GRACE_S = 0.05  # for those of other addresses of the host, once each door has one
_VALID_S = 3.0  # a later confirmation is ignored
_MAX_DATAGRAMS = 1000  # read for one packet; beyond it, a forger's flood, its confirmation is no longer awaited


class AwaitedReply(NamedTuple):
    """A packet that asked for a confirmation: for which door, signed by whom, sent from where to where, and when."""

    door: str
    signer: str
    own: str
    target: Target
    port: Port
    request: Request
    secret: ReplySecret
    sent_s: float


class ArrivedReply(NamedTuple):
    """A confirmation, how long it took, and how far the gate's clock is ahead of this host's."""

    awaited: AwaitedReply
    confirmation: Confirmation
    took_s: float
    ahead_s: float


class ReplyListener:
    """Waits for the confirmations of any number of packets. Times are monotonic."""

    def __init__(self) -> None:
        self.awaited: list[AwaitedReply] = []  # all that were sent, for a report
        self._open: dict[socket.socket, AwaitedReply] = {}
        self._reads: dict[socket.socket, int] = {}

    def expect(self, connected: socket.socket, awaited: AwaitedReply) -> None:
        """Listen on the socket that sent a packet, and own it."""
        for old in [each for each, sent in self._open.items() if awaited.sent_s - sent.sent_s > _VALID_S]:
            self._drop(old)
        connected.setblocking(False)
        self.awaited.append(awaited)
        self._open[connected], self._reads[connected] = awaited, 0

    def sockets(self) -> list[socket.socket]:
        """Return the sockets on which a confirmation may still arrive."""
        return list(self._open)

    def read(self) -> list[ArrivedReply]:
        """Return the confirmations that have arrived; anything else is ignored."""
        arrived = [self._read(connected, awaited) for connected, awaited in list(self._open.items())]
        return [reply for reply in arrived if reply is not None]

    def wait(self, patience_s: float = PATIENCE_S) -> list[ArrivedReply]:
        """Wait until every packet is confirmed, or each door and no other confirmation follows at once."""
        arrived: list[ArrivedReply] = []
        until_s = time.monotonic() + patience_s
        doors = {awaited.door for awaited in self.awaited}
        while self._open and (left_s := until_s - time.monotonic()) > 0:
            if not select.select(self.sockets(), [], [], left_s)[0]:
                break
            if new := self.read():
                arrived += new
                if doors == {reply.awaited.door for reply in arrived}:
                    until_s = min(until_s, time.monotonic() + GRACE_S)
        return arrived

    def close(self) -> None:
        """Close the sockets."""
        for connected in self.sockets():
            self._drop(connected)

    def _read(self, connected: socket.socket, awaited: AwaitedReply) -> ArrivedReply | None:
        while self._reads[connected] < _MAX_DATAGRAMS:
            self._reads[connected] += 1
            try:
                datagram = connected.recv(REPLY_BYTES + 1)
            except BlockingIOError:
                return None
            except OSError:  # an ICMP error: anyone may have sent it
                continue
            took_s = time.monotonic() - awaited.sent_s
            confirmation = _confirmation(awaited, datagram) if took_s <= _VALID_S else None
            if confirmation is not None:
                self._drop(connected)
                ahead_s = confirmation.time_ms / 1000 - (time.time() - took_s / 2)
                return ArrivedReply(awaited, confirmation, took_s, ahead_s)
        self._drop(connected)
        return None

    def _drop(self, connected: socket.socket) -> None:
        del self._open[connected], self._reads[connected]
        connected.close()


def _confirmation(awaited: AwaitedReply, datagram: bytes) -> Confirmation | None:
    """Return the confirmation of this very knock, for the address that it named; else None."""
    try:
        found = open_reply(awaited.secret, datagram)
    except MalformedError:
        return None
    request = awaited.request
    is_close = found.left_s is None
    if is_close != bool(request.flags & CLOSE):
        return None
    fits = isinstance(found.source, Address) if request.asked is None else found.source == request.asked
    return found if fits else None
