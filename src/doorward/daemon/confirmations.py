"""Confirm signed knocks that opened or closed a door, to their senders (docs/reference/signed-knock.md).

The verifier reports where a packet came from, and may be compromised. So the daemon builds the datagram itself, for a
knock that it has recorded, sends it only to another host and only from a port that it has bound, and limits the rate.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Collection
from typing import Literal

from doorward.core.token_bucket import TokenBucket
from doorward.daemon.log import Log
from doorward.daemon.reply_sockets import ReplySockets
from doorward.errors import HostError, InvalidValueError
from doorward.kernel.routes import LOCAL, UNICAST, route_type
from doorward.kernel.send_only import send_from
from doorward.model import Port
from doorward.signed.authorize import KnockClose, KnockGrant
from doorward.signed.reply import SALT_BYTES, Confirmation, ReplyPath, ReplySecret, seal_reply

CONFIRMATIONS_PER_S, CONFIRMATIONS_AT_ONCE = 200, 400  # of 80 bytes: no flood, wherever a verifier may send them
_RESTART = "restart doorward once no other program has the port; it can open those below 1024 at its start only"
Outcome = Literal["sent", "off", "port-not-open", "rate", "not-a-host", "not-sent"]
_REASONS: dict[Outcome, str] = {
    "off": "[signed] has no confirm = true",
    "port-not-open": "the port is not open for replies",
    "rate": f"more than {CONFIRMATIONS_PER_S} confirmations per second",
    "not-a-host": "the packet is not from another host to this one",
    "not-sent": "the kernel did not send it",
}


class Confirmations:
    """Sends confirmations, and logs and counts each outcome. `is_on`: the configuration has `confirm = true`."""

    def __init__(self, sockets: ReplySockets, log: Log) -> None:
        self._sockets, self._log, self.is_on = sockets, log, False
        self._limit = TokenBucket(CONFIRMATIONS_PER_S, CONFIRMATIONS_AT_ONCE)
        self.counts: Counter[str] = Counter()

    def configure(self, ports: Collection[Port]) -> None:
        """Confirm knocks at these ports; none: do not confirm, and bind nothing."""
        self.is_on = bool(ports)
        self._sockets.open(ports)
        for port, why in self._sockets.not_open.items():
            self._log.message(
                "reply-port-not-open", f"signed knocks to {port} are not confirmed: {why}; {_RESTART}", "error"
            )

    def as_dict(self) -> dict[str, object]:
        """Return the ports with and without a socket, and the number of confirmations by outcome."""
        not_open = {str(port): why for port, why in self._sockets.not_open.items()}
        return {
            "is_on": self.is_on,
            "ports": sorted(map(str, self._sockets.ports)),
            "not_open": not_open,
            "counts": dict(self.counts),
        }

    def confirm(self, knock: KnockGrant | KnockClose, left_s: int | None, now_s: float) -> None:
        """Confirm a recorded knock whose sender wants that; `left_s`: for how long the door is open, None: closed."""
        if knock.reply is None or knock.path is None:
            return
        outcome = self._send(knock.reply, knock.path, Confirmation(knock.place, left_s, _now_ms()), now_s)
        self.counts[outcome] += 1
        fields = {"door": knock.door, "address": str(knock.place), "to": str(knock.path.source)}
        if outcome == "sent":
            self._log.event("confirmed", fields)
        else:
            self._log.event("unconfirmed", {**fields, "reason": _REASONS[outcome], "code": outcome})

    def _send(self, secret: ReplySecret, path: ReplyPath, confirmation: Confirmation, now_s: float) -> Outcome:
        if not self.is_on:
            return "off"
        sender = self._sockets.sender(path.port, path.source.version)
        if sender is None:
            return "port-not-open"
        if not self._limit.admits(now_s):
            return "rate"
        try:
            ways = route_type(path.source, path.interface), route_type(path.destination, path.interface)
            if not path.source_port or ways != (UNICAST, LOCAL):
                return "not-a-host"
            datagram = seal_reply(secret, confirmation, os.urandom(SALT_BYTES))
            send_from(sender, datagram, path.destination, path.source, path.source_port, path.interface)
        except (OSError, HostError, InvalidValueError):  # the last: for an IPv4 address in IPv6's form
            return "not-sent"
        return "sent"


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
