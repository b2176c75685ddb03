"""The fleet's schema in etcd: keys and values, written and parsed strictly. Pure.

/doorward/FLEET/openings/DOOR/PLACE   an opening, whose lease outlasts it: a key deleted earlier means it was closed
/doorward/FLEET/openings/DOOR/PLACE/key/SIGNER        the share of it that this signer's knocks made
/doorward/FLEET/closes/DOOR/PLACE/key/SIGNER/DATE     a close by a signed knock, and the gate that claimed it
/doorward/FLEET/seen/ID               a used signed knock, and by which gate it was used
/doorward/FLEET/gates/GATE            a gate that is up, for as long as it renews its lease
/doorward/FLEET/members/GATE          a gate that has joined
/doorward/FLEET/asks/ID, answers/ID/GATE   a status request and its answers
/doorward/FLEET/log/GATE/SLOT         the last records of each gate, in a ring of slots
"""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

from doorward.config.values import MAX_FOR_MS
from doorward.errors import MalformedError
from doorward.model import NAME, Source, parse_source

MAX_TEXT_LENGTH = 200  # characters of who opened a door: a key's name and a gate's have 64 each
LEASE_MARGIN_S = 3  # by which a lease outlasts its opening at least
CLOCKS_AGREE_MS = 500  # hosts synchronized by NTP differ by a few milliseconds
_SIGNER = re.compile("[0-9a-f]{24}|")
_BY_KEY = "/key/"
_DATE_DIGITS = 16  # so that the order of keys is that of their dates


class OpeningKey(NamedTuple):
    """A door, the address or network it is open to, and the signer (a hash) that opened it; "": no signed knock did.

    Each signer has a share of its own, so that its close ends nothing of others.
    """

    door: str
    address: Source
    signer: str = ""

    def __str__(self) -> str:
        return f"{self.door}/{self.address}" + (_BY_KEY + self.signer if self.signer else "")


class StoredOpening(NamedTuple):
    """An opening as stored in etcd. `until_ms` is wall time; the lease ends at least `spare_ms` after it.

    `dated_ms`: the date of the newest signed knock that made it, 0: none did.
    """

    for_ms: int
    until_ms: int
    spare_ms: int
    by: str
    gate: str
    dated_ms: int = 0


class KeySpace(NamedTuple):
    """The keys of one fleet."""

    fleet: str

    @property
    def root(self) -> str:
        """Return the prefix of all keys."""
        return f"/doorward/{self.fleet}/"

    def under(self, *parts: object) -> str:
        """Return a key or, with "" as the last part, a prefix."""
        return self.root + "/".join(map(str, parts))

    def opening(self, key: OpeningKey) -> str:
        """Return the key of an opening."""
        return self.under("openings", key)

    def signers(self, key: OpeningKey) -> str:
        """Return the prefix of the keys of all signers' shares of an opening."""
        return self.under("openings", key) + _BY_KEY

    def close(self, key: OpeningKey, dated_ms: int) -> str:
        """Return the key of a close by a signer."""
        return self.under("closes", key, f"{dated_ms:0{_DATE_DIGITS}}")


def read_text(value: object, limit: int = MAX_TEXT_LENGTH) -> str:
    """Return `value` if it is printable text; raise ValueError otherwise."""
    if not isinstance(value, str) or not value.isprintable() or len(value) > limit:
        raise ValueError("invalid text")
    return value


def read_name(value: object) -> str:
    """Return `value` if it is a valid name of a door, a gate or a fleet; raise ValueError otherwise."""
    if not isinstance(value, str) or not NAME.fullmatch(value):
        raise ValueError("invalid name")
    return value


def read_int(value: object, limit: int = 1 << 53, least: int = 0) -> int:
    """Return `value` if it is an integer from `least` to `limit`; raise ValueError otherwise."""
    if type(value) is not int or not least <= value <= limit:
        raise ValueError("invalid number")
    return value


def read_signer(value: object) -> str:
    """Return `value` if it is a signer's hash, or ""; raise ValueError otherwise."""
    if not isinstance(value, str) or not _SIGNER.fullmatch(value):
        raise ValueError("invalid signer")
    return value


def read_date(value: object, key: OpeningKey) -> int:
    """Return the date of a signed knock for a signer's share, else 0; raise ValueError for any other."""
    return read_int(value, least=1) if key.signer else read_int(value, 0)


def read_address(value: object) -> Source:
    """Return an address or a network from its canonical form; raise ValueError for any other."""
    address = parse_source(read_text(value))
    if str(address) != value:
        raise ValueError("the address is not in canonical form")
    return address


def read_object(raw: bytes) -> dict[str, Any]:
    """Return the members of a JSON object; raise ValueError for any other bytes."""
    try:
        members = json.loads(raw)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(members, dict):
        raise ValueError("not a JSON object")
    return members


def pack(opening: StoredOpening, key: OpeningKey) -> bytes:
    """Return the stored form of an opening."""
    named = {"door": key.door, "address": str(key.address), "signer": key.signer}
    return json.dumps({**named, **opening._asdict()}).encode()


def parse(rest: str, raw: bytes) -> tuple[OpeningKey, StoredOpening]:
    """Return a stored opening; `rest` is its key after `openings/`. Raise MalformedError if it is invalid."""
    try:
        members = read_object(raw)
        key = parse_key(rest)
        if (members["door"], members["address"], members["signer"]) != (key.door, str(key.address), key.signer):
            raise ValueError("the value belongs to another key")
        return key, StoredOpening(
            read_int(members["for_ms"], MAX_FOR_MS),
            read_int(members["until_ms"]),
            read_int(members["spare_ms"]),
            read_text(members["by"]),
            read_name(members["gate"]),
            read_date(members["dated_ms"], key),
        )
    except (ValueError, TypeError, KeyError) as error:
        raise MalformedError("invalid-record", f"fleet: invalid opening ({error})") from None


def parse_key(rest: str) -> OpeningKey:
    """Return the key that DOOR/PLACE or DOOR/PLACE/key/SIGNER names; raise ValueError if it is invalid."""
    opening, _, signer = rest.partition(_BY_KEY)
    door, _, where = opening.partition("/")
    key = OpeningKey(read_name(door), read_address(where), read_signer(signer))
    if str(key) != rest:
        raise ValueError("the key is not in canonical form")
    return key


def parse_close(rest: str) -> tuple[OpeningKey, int]:
    """Return the share that a close ends, and its date, from its key after `closes/`; raise ValueError if invalid."""
    share, _, date = rest.rpartition("/")
    if not (len(date) == _DATE_DIGITS and date.isascii() and date.isdecimal()):
        raise ValueError("invalid date of a close")
    key = parse_key(share)
    if not key.signer:
        raise ValueError("a close without a signer")
    return key, read_date(int(date), key)


def latest_date_ms(wall_ms: int, window_ms: int) -> int:
    """Return the latest date of a signed knock that some gate accepts: clocks differ by less than a window."""
    return wall_ms + 2 * window_ms


def remaining_ms(opening: StoredOpening, wall_ms: int, oldest_ms: int | None, lease_ms: int | None = None) -> int:
    """Return how long an opening has left here, in milliseconds.

    `oldest_ms`: it was written at most that long ago, as etcd's revisions prove (None: unknown). If the wall clock
    contradicts this, the opening counts as the oldest possible: shorter, never longer. `lease_ms` is the rest of its
    lease; since a change of etcd's leader may extend a lease, it can only shorten the result.
    """
    passed_ms = wall_ms - (opening.until_ms - opening.for_ms)
    if oldest_ms is not None:
        if not -CLOCKS_AGREE_MS <= passed_ms <= oldest_ms:
            passed_ms = oldest_ms
    elif lease_ms is not None:
        by_lease_ms = lease_ms - opening.spare_ms + 1000  # etcd reports whole seconds
        passed_ms = max(passed_ms, opening.for_ms - by_lease_ms)
    return min(opening.for_ms, opening.for_ms - passed_ms)
