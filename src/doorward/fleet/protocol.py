"""The messages between the daemon and the fleet process, which speaks to etcd; both sides validate them. Pure.

Times are milliseconds of CLOCK_MONOTONIC, which all processes of a host share.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeVar, get_args

from doorward.errors import MalformedError
from doorward.escape import printable
from doorward.fleet.etcd_records import (
    MAX_TEXT_LENGTH,
    OpeningKey,
    read_address,
    read_date,
    read_int,
    read_name,
    read_signer,
    read_text,
)

MAX_PER_MESSAGE = 60  # etcd accepts 128 operations in a transaction, and each claim takes two
MESSAGE_BYTES = 1 << 17
MAX_LINE_LENGTH = 2000


class Item(NamedTuple):
    """An opening: its key, its end, who opened it, for how long, and the date of the newest signed knock for it."""

    key: OpeningKey
    until_ms: int
    by: str
    for_ms: int
    dated_ms: int = 0


class Close(NamedTuple):
    """The end of what knocks dated at or before `dated_ms` opened; without a signer dated 0.

    `is_signed`: its signer asked for that, so older knocks that arrive later open nothing. Otherwise it is by hand.
    """

    key: OpeningKey
    dated_ms: int = 0
    is_signed: bool = False


class OpeningsSnapshot(NamedTuple):
    """To the process, first: the gate's openings, and what was closed while no process ran."""

    openings: list[Item]
    closed: list[Close]
    is_last: bool


class Opened(NamedTuple):
    """To the process: openings made here. To the daemon: openings to make."""

    openings: list[Item]


class Closed(NamedTuple):
    """To the process: closes by hand, and signed ones that no claim announced. To the daemon: openings to close."""

    closes: list[Close]


class KnockClaim(NamedTuple):
    """A signed knock to claim: its number, which share it opens or closes, and its date."""

    id: str
    key: OpeningKey
    dated_ms: int
    is_close: bool


class Claim(NamedTuple):
    """To the process: signed knocks to claim, in the order in which they came."""

    number: int
    knocks: list[KnockClaim]


ClaimOutcome = Literal["new", "used", "closed"]  # the last: its signer closed the door at that time or later


class Claimed(NamedTuple):
    """To the daemon: what became of the claims; None if that is undecided, and why."""

    number: int
    outcomes: list[ClaimOutcome] | None
    why: str


class Recorded(NamedTuple):
    """To the process: an event of this gate for the fleet's access log."""

    event: str
    door: str
    address: str
    words: str


class LogMessage(NamedTuple):
    """To the daemon: a line for its log."""

    code: str
    level: str
    words: str


class State(NamedTuple):
    """To the daemon: whether etcd answers, the number of openings of the fleet, and of changes not yet published."""

    is_in_touch: bool
    openings: int
    owed: int
    revision: int


Message = OpeningsSnapshot | Opened | Closed | Claim | Claimed | Recorded | LogMessage | State
M = TypeVar("M")
T = TypeVar("T")


def pack(message: Message) -> bytes:
    """Return the bytes of a message."""
    what = type(message).__name__
    fields = {"what": what, **{k: _plain(v) for k, v in message._asdict().items()}}
    return json.dumps(fields, ensure_ascii=False).encode(errors="replace")


def parse(raw: bytes) -> Message:
    """Return the message in `raw`; raise MalformedError for any other bytes."""
    try:
        members = json.loads(raw)
        return _PARSERS[members.pop("what")](**members)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise MalformedError("invalid-message", f"fleet: invalid message: {error}") from None


def batches(rows: list[T]) -> list[list[T]]:
    """Split a list into parts that fit into one message each."""
    return [rows[at : at + MAX_PER_MESSAGE] for at in range(0, len(rows), MAX_PER_MESSAGE)]


def build_item(key: OpeningKey, until_ms: int, by: str, for_ms: int, dated_ms: int = 0) -> Item:
    """Return an opening whose text fits into a message."""
    return Item(key, until_ms, printable(by, MAX_TEXT_LENGTH), for_ms, dated_ms)


def _plain(value: Any) -> Any:
    if isinstance(value, OpeningKey):
        return [value.door, str(value.address), value.signer]
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _item(row: Any) -> Item:
    place, until_ms, by, for_ms, dated_ms = row
    key = _key(place)
    return Item(key, read_int(until_ms), read_text(by), read_int(for_ms), read_date(dated_ms, key))


def _close(row: Any) -> Close:
    place, dated_ms, is_signed = row
    key = _key(place)
    return Close(key, read_date(dated_ms, key), _flag(is_signed) and bool(key.signer))


def _knock_claim(row: Any) -> KnockClaim:
    number, place, dated_ms, is_close = row
    key = _key(place)
    return KnockClaim(_id(number), key, read_date(dated_ms, key), _flag(is_close))


def _outcome(value: Any) -> ClaimOutcome:
    if value not in get_args(ClaimOutcome):
        raise ValueError("invalid outcome of a claim")
    outcome: ClaimOutcome = value
    return outcome


def _key(row: Any) -> OpeningKey:
    door, where, signer = row
    return OpeningKey(read_name(door), read_address(where), read_signer(signer))


def _list(read: Callable[[Any], M], rows: Any) -> list[M]:
    if not isinstance(rows, list) or len(rows) > MAX_PER_MESSAGE:
        raise ValueError("not a list, or too long")
    return [read(row) for row in rows]


def _flag(value: object) -> bool:
    if type(value) is not bool:
        raise ValueError("invalid boolean")
    return value


def _id(value: object) -> str:
    if len(bytes.fromhex(read_text(value, 32))) != 16:
        raise ValueError("invalid ID of a knock")
    return str(value)


def _snapshot(openings: Any, closed: Any, is_last: Any) -> OpeningsSnapshot:
    return OpeningsSnapshot(_list(_item, openings), _list(_close, closed), _flag(is_last))


def _claimed(number: Any, outcomes: Any, why: Any) -> Claimed:
    read = None if outcomes is None else _list(_outcome, outcomes)
    return Claimed(read_int(number), read, read_text(why, MAX_LINE_LENGTH))


def _recorded(event: Any, door: Any, address: Any, words: Any) -> Recorded:
    if door != "":
        read_name(door)
    return Recorded(read_name(event), door, read_text(address), read_text(words, MAX_LINE_LENGTH))


def _log_message(code: Any, level: Any, words: Any) -> LogMessage:
    return LogMessage(read_name(code), read_name(level), read_text(words, MAX_LINE_LENGTH))


def _state(is_in_touch: Any, openings: Any, owed: Any, revision: Any) -> State:
    return State(_flag(is_in_touch), read_int(openings), read_int(owed), read_int(revision, 1 << 63))


_PARSERS: dict[str, Callable[..., Message]] = {
    "OpeningsSnapshot": _snapshot,
    "Opened": lambda openings: Opened(_list(_item, openings)),
    "Closed": lambda closes: Closed(_list(_close, closes)),
    "Claim": lambda number, knocks: Claim(read_int(number), _list(_knock_claim, knocks)),
    "Claimed": _claimed,
    "Recorded": _recorded,
    "LogMessage": _log_message,
    "State": _state,
}
