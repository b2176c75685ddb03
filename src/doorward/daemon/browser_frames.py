"""The frames of browsers, which send one packet many times. Pure: times are arguments, in seconds.

The verifier recognises the repeats here, and the daemon answers them (confirmations.py). This memory is kept apart from
the one of packets: what fills it makes repeats unanswered, and lets no packet in.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from doorward.signed.reply import ReplyPath, ReplySecret
from doorward.signed.stun import has_integrity, ice_password, transaction_of

ANSWER_S = 7.0  # for how long the repeats of an accepted frame are answered
MAX_ANSWERS = 8  # to one packet, including the first
RESENT_S = 10.0  # for how long a copy from the same source counts as the browser's repeat
MAX_FRAMES = 4096  # that are remembered; beyond it the oldest is dropped


class FrameRepeat(NamedTuple):
    """A repeat to answer: the number of its knock, and the frame's own transaction."""

    id: bytes
    transaction: bytes


class _FirstFrame:
    """The first frame with a packet from a source. `secret`: of an accepted knock that wants an answer."""

    def __init__(self, now_s: float, path: ReplyPath, knock_id: bytes, secret: ReplySecret | None) -> None:
        self.at_s, self.path, self.id, self.left = now_s, path, knock_id, MAX_ANSWERS
        self.password = None if secret is None else ice_password(secret)


class BrowserFrames:
    """Remembers first frames by check and source."""

    def __init__(self) -> None:
        self._frames: OrderedDict[bytes, _FirstFrame] = OrderedDict()

    def add(
        self, check: bytes, frame: bytes, path: ReplyPath, knock_id: bytes, secret: ReplySecret | None, now_s: float
    ) -> bytes:
        """Remember a frame; return its transaction, or b"" where no answer is wanted or the integrity is wrong."""
        first = self._frames[check + path.source.packed] = _FirstFrame(now_s, path, knock_id, secret)
        if len(self._frames) > MAX_FRAMES:
            self._frames.popitem(last=False)
        return _answerable(first, frame)

    def resent(self, check: bytes, frame: bytes, path: ReplyPath, now_s: float) -> FrameRepeat | bool:
        """Return a copy's repeat to answer; or whether it is a repeat at all, from the same source and recent."""
        first = self._frames.get(check + path.source.packed)
        if first is None or now_s >= first.at_s + RESENT_S:
            return False
        if now_s < first.at_s + ANSWER_S and path == first.path and (transaction := _answerable(first, frame)):
            return FrameRepeat(first.id, transaction)
        return True


def _answerable(first: _FirstFrame, frame: bytes) -> bytes:
    if first.password is None or not first.left or not has_integrity(frame, first.password):
        return b""
    first.left -= 1
    return transaction_of(frame)
