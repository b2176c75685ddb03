"""Connect to a port that is opening: several attempts, since the first SYN may arrive before the door is open.

Knock again until it answers.
"""

from __future__ import annotations

import errno
import select
import socket
import time
from collections.abc import Callable
from enum import Enum
from typing import TypeVar

from doorward.client.sequence import SENT, Target

TYPE_CHECKING = False
if TYPE_CHECKING:
    from doorward.client.confirmation import ReplyListener

# A signed knock opens its door once a process has verified it: after a millisecond or two. A SYN that arrives earlier
# is dropped, and TCP retransmits it only after one second, so more attempts follow soon. They are few and spread out,
# since SYNs at an open door count against the limits of other firewalls (`ufw limit`: six in 30 s). The service rarely
# sees more than one: abandoned attempts have no answer yet, and are reset before they become connections.
ATTEMPTS_S = (0.0, 0.001, 0.003, 0.015, 0.1)
# All but the newest are abandoned before TCP retransmits them: no round trip takes this long.
SINGLE_S = 0.9

Reached = TypeVar("Reached")  # what a knock reached: one target, or several


class Reply(Enum):
    """The outcome of a connection attempt."""

    OPEN = "open"
    REFUSED = "refused"
    SILENT = "silent"


def open_connection(
    target: Target, port: int, patience_s: float, replies: ReplyListener | None = None
) -> socket.socket | Reply:
    """Return a connection, or the reply met within `patience_s`. Unused attempts are closed.

    A confirmation of the knock starts an attempt at once.
    """
    attempts = _Attempts(target, port, replies)
    try:
        return attempts.run(time.monotonic(), patience_s)
    finally:
        attempts.close()


def try_port(target: Target, port: int, patience_s: float, replies: ReplyListener | None = None) -> Reply:
    """Connect, close the connection again and return the reply."""
    connection = open_connection(target, port, patience_s, replies)
    if isinstance(connection, Reply):
        return connection
    connection.close()
    return Reply.OPEN


class _Attempts:
    """Sockets that are connecting to one port."""

    def __init__(self, target: Target, port: int, replies: ReplyListener | None = None) -> None:
        self._replies, self._target, self._address = replies, target, target.at(port)
        self._connecting: list[socket.socket] = []
        self._starts_s = list(ATTEMPTS_S)

    def run(self, began_s: float, patience_s: float) -> socket.socket | Reply:
        while (now_s := time.monotonic() - began_s) < patience_s:
            if self._starts_s and self._starts_s[0] <= now_s:
                self._start_next()  # one per pass: after a delay the first may already have succeeded
            if now_s >= SINGLE_S:
                self._keep_newest()
            if not (self._connecting or self._starts_s):
                break
            until_s = min(self._next_s(), patience_s) - now_s
            if connection := self._first_connected(max(until_s, 0)):
                return connection
        return Reply.SILENT if self._connecting else Reply.REFUSED

    def close(self) -> None:
        while self._connecting:
            self._connecting.pop().close()

    def _start_next(self) -> None:
        self._starts_s.pop(0)
        attempt = socket.socket(self._target.family, socket.SOCK_STREAM)
        attempt.setblocking(False)
        self._connecting.append(attempt)
        if attempt.connect_ex(self._address) not in SENT | {errno.EALREADY}:
            self._connecting.remove(attempt)
            attempt.close()

    def _next_s(self) -> float:
        if self._starts_s:
            return self._starts_s[0]
        return SINGLE_S if len(self._connecting) > 1 else float("inf")

    def _keep_newest(self) -> None:
        while len(self._connecting) > 1:
            self._connecting.pop(0).close()

    def _first_connected(self, timeout_s: float) -> socket.socket | None:
        """Return the first connected socket; close those that were refused."""
        awaited = [] if self._replies is None else self._replies.sockets()
        if not (awaited or self._connecting):
            time.sleep(timeout_s)  # Windows' select takes no empty lists
            return None
        # Windows reports a refused connection as an exceptional condition, other systems as writable.
        confirmed, connected, refused = select.select(awaited, self._connecting, self._connecting, timeout_s)
        if confirmed and self._replies is not None and self._replies.read():
            self._starts_s.insert(0, 0.0)  # the door is open: now
        for attempt in dict.fromkeys(connected + refused):
            self._connecting.remove(attempt)
            if attempt.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
                attempt.setblocking(True)
                return attempt
            attempt.close()
        return None


FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 4.0  # a person is waiting: a restored route is noticed within seconds
# Together with the first pause, long enough for the retransmission after 1 s of a SYN that overtook the last knock.
PATIENCE_S = 1.0


def knock_until_open(
    knock_once: Callable[[], Reached],
    connect: Callable[[Reached, float], Reply],
    timeout_s: float,
    *,
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
) -> tuple[Reply, int]:
    """Knock and connect with growing pauses, until a connection succeeds or the time is up.

    Returns the last reply and the number of rounds; each connection attempt follows its knock immediately.
    """
    until_s = now() + timeout_s
    pause_s = FIRST_PAUSE_S
    rounds = 0
    while True:
        reached = knock_once()
        rounds += 1
        left_s = max(until_s - now(), 0.001)  # 0 would mean no waiting at all
        reply = connect(reached, min(PATIENCE_S + pause_s, left_s))
        left_s = until_s - now()
        # While the port is silent, a last round uses the time that is left.
        wait_s = min(pause_s, max(left_s - PATIENCE_S, FIRST_PAUSE_S)) if reply is Reply.SILENT else pause_s
        if reply is Reply.OPEN or wait_s >= left_s:
            return reply, rounds
        sleep(wait_s)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
