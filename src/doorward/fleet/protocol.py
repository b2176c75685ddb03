"""What the daemon and the process that speaks to etcd tell each other, in a fixed form that both check. Pure.

Times are milliseconds of CLOCK_MONOTONIC, which all processes of a machine share.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from doorward.errors import MalformedError
from doorward.fleet.etcd_records import OpeningKey, fit, name, place, text, whole

MOST_AT_ONCE = 100  # openings a message
MESSAGE_BYTES = 1 << 17
LONGEST_WORDS = 2000


class Item(NamedTuple):
    """An opening: what is open to whom, until when, by whom; and for how long it was opened."""

    key: OpeningKey
    until_ms: int
    by: str
    for_ms: int


class Standing(NamedTuple):
    """To the process, first: what stands here; and what was closed by hand while there was no process to tell."""

    openings: list[Item]
    closed: list[OpeningKey]
    is_last: bool


class Opened(NamedTuple):
    """To the process: these were opened here. To the daemon: open these."""

    openings: list[Item]


class Closed(NamedTuple):
    """To the process: these were closed here, by hand. To the daemon: close these."""

    keys: list[OpeningKey]


class Claim(NamedTuple):
    """To the process: claim these signed knocks."""

    number: int
    ids: list[str]


class Claimed(NamedTuple):
    """To the daemon: which of them are new; None where nobody can tell, and why."""

    number: int
    are_new: list[bool] | None
    why: str


class Recorded(NamedTuple):
    """To the process: what happened here, for the record."""

    event: str
    door: str
    address: str
    words: str


class Say(NamedTuple):
    """To the daemon: for its log."""

    level: str
    words: str


class State(NamedTuple):
    """To the daemon: whether etcd answers; how many openings the fleet has; what waits to be told."""

    is_in_touch: bool
    openings: int
    owed: int
    revision: int


Message = Standing | Opened | Closed | Claim | Claimed | Recorded | Say | State
M = TypeVar("M")
T = TypeVar("T")


def pack(message: Message) -> bytes:
    """Give the bytes of a message."""
    what = type(message).__name__
    fields = {"what": what, **{k: _plain(v) for k, v in message._asdict().items()}}
    return json.dumps(fields, ensure_ascii=False).encode(errors="replace")


def parse(raw: bytes) -> Message:
    """Read a message. MalformedError for any other bytes."""
    try:
        found = json.loads(raw)
        return _READ[found.pop("what")](**found)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise MalformedError(f"fleet: a message that is none: {error}") from None


def portions(rows: list[T]) -> list[list[T]]:
    """Cut a list into what one message takes."""
    return [rows[at : at + MOST_AT_ONCE] for at in range(0, len(rows), MOST_AT_ONCE)]


def item(key: OpeningKey, until_ms: int, by: str, for_ms: int) -> Item:
    """Make an opening that can be told."""
    return Item(key, until_ms, fit(by), for_ms)


def _plain(value: Any) -> Any:
    if isinstance(value, OpeningKey):
        return [value.door, str(value.place)]
    if isinstance(value, Item):
        return [*_plain(value.key), value.until_ms, value.by, value.for_ms]
    return [_plain(each) for each in value] if isinstance(value, list) else value


def _item(row: Any) -> Item:
    door, where, until_ms, by, for_ms = row
    return Item(_key((door, where)), whole(until_ms), text(by), whole(for_ms))


def _key(row: Any) -> OpeningKey:
    door, where = row
    return OpeningKey(name(door), place(where))


def _list(read: Callable[[Any], M], rows: Any) -> list[M]:
    if not isinstance(rows, list) or len(rows) > MOST_AT_ONCE:
        raise ValueError("no list, or too long")
    return [read(row) for row in rows]


def _flag(value: object) -> bool:
    if type(value) is not bool:
        raise ValueError("no flag")
    return value


def _id(value: object) -> str:
    if len(bytes.fromhex(text(value, 32))) != 16:
        raise ValueError("no number of a knock")
    return str(value)


def _standing(openings: Any, closed: Any, is_last: Any) -> Standing:
    return Standing(_list(_item, openings), _list(_key, closed), _flag(is_last))


def _claimed(number: Any, are_new: Any, why: Any) -> Claimed:
    return Claimed(whole(number), None if are_new is None else _list(_flag, are_new), text(why, LONGEST_WORDS))


def _recorded(event: Any, door: Any, address: Any, words: Any) -> Recorded:
    if door != "":
        name(door)
    return Recorded(name(event), door, text(address), text(words, LONGEST_WORDS))


def _say(level: Any, words: Any) -> Say:
    return Say(name(level), text(words, LONGEST_WORDS))


def _state(is_in_touch: Any, openings: Any, owed: Any, revision: Any) -> State:
    return State(_flag(is_in_touch), whole(openings), whole(owed), whole(revision, 1 << 63))


_READ: dict[str, Callable[..., Message]] = {
    "Standing": _standing,
    "Opened": lambda openings: Opened(_list(_item, openings)),
    "Closed": lambda keys: Closed(_list(_key, keys)),
    "Claim": lambda number, ids: Claim(whole(number), _list(_id, ids)),
    "Claimed": _claimed,
    "Recorded": _recorded,
    "Say": _say,
    "State": _state,
}
