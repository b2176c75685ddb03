"""The messages between the daemon and the fleet process, which speaks to etcd; both sides validate them. Pure.

Times are milliseconds of CLOCK_MONOTONIC, which all processes of a host share.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from doorward.errors import MalformedError
from doorward.escape import printable
from doorward.fleet.etcd_records import MAX_TEXT_LENGTH, OpeningKey, read_address, read_int, read_name, read_text

MAX_PER_MESSAGE = 100  # openings per message
MESSAGE_BYTES = 1 << 17
MAX_LINE_LENGTH = 2000


class Item(NamedTuple):
    """An opening: its key, its end, who opened it, and for how long."""

    key: OpeningKey
    until_ms: int
    by: str
    for_ms: int


class OpeningsSnapshot(NamedTuple):
    """To the process, first: the gate's openings, and what was closed by hand while no process ran."""

    openings: list[Item]
    closed: list[OpeningKey]
    is_last: bool


class Opened(NamedTuple):
    """To the process: openings made here. To the daemon: openings to make."""

    openings: list[Item]


class Closed(NamedTuple):
    """To the process: openings closed here by hand. To the daemon: openings to close."""

    keys: list[OpeningKey]


class Claim(NamedTuple):
    """To the process: signed knocks to claim."""

    number: int
    ids: list[str]


class Claimed(NamedTuple):
    """To the daemon: which of the knocks are new; None if that is undecided, and why."""

    number: int
    are_new: list[bool] | None
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


def build_item(key: OpeningKey, until_ms: int, by: str, for_ms: int) -> Item:
    """Return an opening whose text fits into a message."""
    return Item(key, until_ms, printable(by, MAX_TEXT_LENGTH), for_ms)


def _plain(value: Any) -> Any:
    if isinstance(value, OpeningKey):
        return [value.door, str(value.address)]
    if isinstance(value, Item):
        return [*_plain(value.key), value.until_ms, value.by, value.for_ms]
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _item(row: Any) -> Item:
    door, where, until_ms, by, for_ms = row
    return Item(_key((door, where)), read_int(until_ms), read_text(by), read_int(for_ms))


def _key(row: Any) -> OpeningKey:
    door, where = row
    return OpeningKey(read_name(door), read_address(where))


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
    return OpeningsSnapshot(_list(_item, openings), _list(_key, closed), _flag(is_last))


def _claimed(number: Any, are_new: Any, why: Any) -> Claimed:
    return Claimed(
        read_int(number), None if are_new is None else _list(_flag, are_new), read_text(why, MAX_LINE_LENGTH)
    )


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
    "Closed": lambda keys: Closed(_list(_key, keys)),
    "Claim": lambda number, ids: Claim(read_int(number), _list(_id, ids)),
    "Claimed": _claimed,
    "Recorded": _recorded,
    "LogMessage": _log_message,
    "State": _state,
}
