"""Confirm signed knocks that opened or closed a door, to their senders (docs/reference/signed-knock.md).

The verifier reports where a packet came from, and may be compromised. So the daemon builds the datagram itself, for a
knock that it has recorded, sends it only to another host and only from a port that it has bound, and limits the rate.

A browser repeats its frame until an answer arrives, which may be lost. So what confirms a knock in a STUN frame is sent
again for its repeats, and only the way that this knock came; the verifier reports them with nothing but a transaction.
"""

from __future__ import annotations

import os
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection
from functools import partial

from doorward.core.token_bucket import TokenBucket
from doorward.daemon.browser_frames import ANSWER_S, MAX_ANSWERS, FrameRepeat
from doorward.daemon.confirmation_outcomes import CONFIRMATIONS_AT_ONCE, CONFIRMATIONS_PER_S, REASONS, Outcome
from doorward.daemon.log import Log
from doorward.daemon.reply_sockets import ReplySockets
from doorward.errors import HostError, InvalidValueError
from doorward.kernel.routes import LOCAL, UNICAST, route_type
from doorward.kernel.send_only import send_from
from doorward.model import Port
from doorward.signed.authorize import ValidKnock, signer_text
from doorward.signed.reply import SALT_BYTES, Confirmation, ReplyPath, seal_reply
from doorward.signed.stun import ice_password, success_response

_RESTART = "restart doorward once no other program has the port; it can open those below 1024 at its start only"
MAX_ANSWERABLE = 1024  # knocks of browsers whose repeats are answered; beyond it those of the oldest are not


class _Answers:
    """The answers to one knock of a browser: how many are left, until when, and whether one was sent."""

    def __init__(self, path: ReplyPath, password: bytes, until_s: float) -> None:
        self.path, self.password, self.until_s = path, password, until_s
        self.left, self.was_sent = MAX_ANSWERS, False


class Confirmations:
    """Sends confirmations, and logs and counts each outcome. `is_on`: the configuration has `confirm = true`."""

    def __init__(self, sockets: ReplySockets, log: Log) -> None:
        self._sockets, self._log, self.is_on = sockets, log, False
        self._limit = TokenBucket(CONFIRMATIONS_PER_S, CONFIRMATIONS_AT_ONCE)
        self._answers: OrderedDict[bytes, _Answers] = OrderedDict()  # by the knock's number
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

    def confirm(self, knock: ValidKnock, left_s: int | None, now_s: float) -> Outcome | None:
        """Confirm a recorded knock; return what became of it, None: its sender does not want that.

        `left_s`: for how long the door is open, None: closed.
        """
        if knock.reply is None or knock.path is None:
            return None
        if knock.transaction is None:
            confirmation = Confirmation(knock.source, left_s, _now_ms())
            seal = partial(seal_reply, knock.reply, confirmation, os.urandom(SALT_BYTES))
            outcome = self._send(knock.path, seal, now_s)
        else:
            answers = _Answers(knock.path, ice_password(knock.reply), now_s + ANSWER_S)
            self._answers[knock.id] = answers
            if len(self._answers) > MAX_ANSWERABLE:
                self._answers.popitem(last=False)
            outcome = self._answer(answers, knock.transaction, now_s) if knock.transaction else "integrity"
        self.counts[outcome] += 1
        fields = {
            "door": knock.door,
            "address": str(knock.source),
            "to": str(knock.path.source),
            "by": signer_text(knock),
        }
        if outcome == "sent":
            self._log.event("confirmed", fields)
        else:
            self._log.event("unconfirmed", {**fields, "reason": REASONS[outcome], "code": outcome})
        return outcome

    def repeat(self, repeat: FrameRepeat, now_s: float) -> None:
        """Answer a browser's repeat of a recorded knock; only counted, since a line for each would say nothing new."""
        answers = self._answers.get(repeat.id)
        if answers is not None and answers.left and now_s < answers.until_s:
            self.counts[self._answer(answers, repeat.transaction, now_s)] += 1

    def _answer(self, answers: _Answers, transaction: bytes, now_s: float) -> Outcome:
        answers.left -= 1
        path = answers.path
        respond = partial(success_response, transaction, path.source, path.source_port, answers.password)
        outcome = self._send(path, respond, now_s)
        if outcome == "sent" and answers.was_sent:
            return "again"
        answers.was_sent |= outcome == "sent"
        return outcome

    def _send(self, path: ReplyPath, build: Callable[[], bytes], now_s: float) -> Outcome:
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
            send_from(sender, build(), path.destination, path.source, path.source_port, path.interface)
        except (OSError, HostError, InvalidValueError):  # the last: for an IPv4 address in IPv6's form
            return "not-sent"
        return "sent"


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
