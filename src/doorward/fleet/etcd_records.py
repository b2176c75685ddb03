"""What a fleet keeps in etcd: the keys, and what stands in them, written and read strictly. Pure.

/doorward/FLEET/openings/DOOR/PLACE   an opening, with a lease that outlasts it: gone earlier, it was closed
/doorward/FLEET/seen/ID               a signed knock that was used, by which gate
/doorward/FLEET/gates/GATE            a gate that is up; its lease ends with it
/doorward/FLEET/members/GATE          a gate that once was
/doorward/FLEET/asks/ID, answers/ID/GATE   a roll call
/doorward/FLEET/log/GATE/SLOT         the last records of each gate, round and round
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from doorward.errors import MalformedError
from doorward.model import NAME, Place, parse_place

MAX_FOR_MS = 365 * 86_400_000
MAX_WORDS = 200
SPARE_S = 3  # so much longer than its opening a lease lives at least
CLOCKS_AGREE_MS = 500  # machines that are kept by NTP differ by a few milliseconds


class OpeningKey(NamedTuple):
    """What is open to whom."""

    door: str
    place: Place

    def __str__(self) -> str:
        return f"{self.door}/{self.place}"


class StoredOpening(NamedTuple):
    """An opening as etcd has it. `until_ms` is wall time; the lease ends `spare_ms` after it, at the earliest."""

    for_ms: int
    until_ms: int
    spare_ms: int
    by: str
    gate: str


class KeySpace(NamedTuple):
    """The keys of one fleet."""

    fleet: str

    @property
    def root(self) -> str:
        """Before all keys."""
        return f"/doorward/{self.fleet}/"

    def under(self, *parts: object) -> str:
        """Give a key, or with "" at the end a prefix."""
        return self.root + "/".join(map(str, parts))

    def opening(self, key: OpeningKey) -> str:
        """Give the key of an opening."""
        return self.under("openings", key)


def text(value: object, limit: int = MAX_WORDS) -> str:
    """Read a printable text."""
    if not isinstance(value, str) or not value.isprintable() or len(value) > limit:
        raise ValueError("no text")
    return value


def name(value: object) -> str:
    """Read the name of a door, a gate or a fleet."""
    if not isinstance(value, str) or not NAME.fullmatch(value):
        raise ValueError("no name")
    return value


def whole(value: object, limit: int = 1 << 53, least: int = 0) -> int:
    """Read a whole number."""
    if type(value) is not int or not least <= value <= limit:
        raise ValueError("no number")
    return value


def place(value: object) -> Place:
    """Read an address or a network, written as Python writes it."""
    found = parse_place(text(value))
    if str(found) != value:
        raise ValueError("a place that doorward does not write")
    return found


def fit(words: str, limit: int = MAX_WORDS) -> str:
    """Make a text that `text` takes."""
    return "".join(letter if letter.isprintable() else "?" for letter in words[:limit])


def fields(raw: bytes) -> dict[str, Any]:
    """Read an object. ValueError."""
    try:
        found = json.loads(raw)
    except RecursionError:
        raise ValueError("too deep") from None
    if not isinstance(found, dict):
        raise ValueError("no object")
    return found


def pack(found: StoredOpening, key: OpeningKey) -> bytes:
    """Write an opening."""
    return json.dumps({"door": key.door, "address": str(key.place), **found._asdict()}).encode()


def parse(rest: str, raw: bytes) -> tuple[OpeningKey, StoredOpening]:
    """Read an opening; `rest` is its key after `openings/`. MalformedError."""
    try:
        found = fields(raw)
        key = parse_key(rest)
        if (found["door"], found["address"]) != (key.door, str(key.place)):
            raise ValueError("another key's")
        return key, StoredOpening(
            whole(found["for_ms"], MAX_FOR_MS),
            whole(found["until_ms"]),
            whole(found["spare_ms"]),
            text(found["by"]),
            name(found["gate"]),
        )
    except (ValueError, TypeError, KeyError) as error:
        raise MalformedError(f"fleet: an opening that is none ({error})") from None


def parse_key(rest: str) -> OpeningKey:
    """Read DOOR/PLACE. ValueError."""
    door, _, where = rest.partition("/")
    return OpeningKey(name(door), place(where))


def left_ms(found: StoredOpening, wall_ms: int, oldest_ms: int | None, lease_ms: int | None = None) -> int:
    """Say for how long an opening has still to stand here.

    `oldest_ms`: it was written at most so long ago, as etcd's revisions prove (None: nobody knows). Where the wall
    clock says what cannot be, the opening is taken for as old as it can be: shorter, never longer. `lease_ms` is
    what its lease has left; a lease may be prolonged by a change of etcd's leader, so it only ever shortens.
    """
    passed_ms = wall_ms - (found.until_ms - found.for_ms)
    if oldest_ms is not None:
        if not -CLOCKS_AGREE_MS <= passed_ms <= oldest_ms:
            passed_ms = oldest_ms
    elif lease_ms is not None:
        by_lease_ms = lease_ms - found.spare_ms + 1000  # etcd tells whole seconds
        passed_ms = max(passed_ms, found.for_ms - by_lease_ms)
    return min(found.for_ms, found.for_ms - passed_ms)
