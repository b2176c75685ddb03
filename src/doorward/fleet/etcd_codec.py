"""Requests to and answers from etcd's JSON gateway, parsed strictly. Pure.

Keys and values are base64; 64-bit numbers are strings; zero and empty fields are omitted.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from doorward.errors import MalformedError

Message = dict[str, Any]
_LARGEST = 1 << 63


class KeyValue(NamedTuple):
    """A key with its value, the revision that last wrote it, its lease (0: none), and the revision that created it."""

    key: str
    value: bytes
    revision: int
    lease: int = 0
    created: int = 0


class RangeResult(NamedTuple):
    """The keys of a range at a revision."""

    entries: list[KeyValue]
    revision: int
    is_complete: bool = True  # false: there are more keys after the last


class TransactionResult(NamedTuple):
    """The result of a transaction: whether its conditions held, the revision, and what each of its operations read.

    A write reads nothing: None.
    """

    succeeded: bool
    revision: int
    read: list[list[KeyValue] | None]

    def entries(self, number: int, count: int) -> list[KeyValue]:
        """Return what operation `number` of `count` read. MalformedError: etcd's answer does not have it."""
        read = self.read[number] if len(self.read) == count else None
        if read is None:
            raise MalformedError("incomplete-transaction", "etcd: the answer lacks the result of an operation")
        return read


class KeyChange(NamedTuple):
    """A key was written or (no value) deleted."""

    entry: KeyValue
    is_put: bool


class WatchMessage(NamedTuple):
    """One message of a watch. `compacted` not 0: the requested revisions before this one were compacted away."""

    changes: list[KeyChange]
    revision: int
    is_created: bool = False
    compacted: int = 0
    ended: str = ""
    watch: int = 0


def b64(data: str | bytes) -> str:
    """Return a key or a value as base64."""
    raw = data.encode(errors="surrogateescape") if isinstance(data, str) else data
    return base64.b64encode(raw).decode()


def prefix_end(prefix: str) -> str:
    """Return the end of the range of all keys that begin with `prefix`."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)


def key_range(key: str, end: str = "") -> Message:
    """Return the request fields for one key, or for the keys from it up to but not including `end`."""
    return {"key": b64(key), **({"range_end": b64(end)} if end else {})}


def put(key: str, value: bytes, lease: int = 0) -> Message:
    """Return the request to write a key."""
    return {"key": b64(key), "value": b64(value), **({"lease": str(lease)} if lease else {})}


def to_put(key: str, value: bytes, lease: int = 0) -> Message:
    """Return the operation of a transaction that writes a key."""
    return {"request_put": put(key, value, lease)}


def to_delete(key: str) -> Message:
    """Return the operation of a transaction that deletes a key."""
    return {"request_delete_range": key_range(key)}


def to_read(key: str, end: str = "") -> Message:
    """Return the operation of a transaction that reads a key, or the first of those up to but not including `end`."""
    return {"request_range": key_range(key, end) | {"limit": "1"}}


def txn(conditions: Sequence[tuple[str, int]], then: Sequence[Message], otherwise: Sequence[Message] = ()) -> Message:
    """Return the request for a transaction; see Etcd.txn."""
    compare = [{"key": b64(key), "target": "MOD", "mod_revision": str(revision)} for key, revision in conditions]
    return {"compare": compare, "success": list(then), "failure": list(otherwise)}


def parse(raw: bytes) -> Message:
    """Return the JSON object of an answer; raise MalformedError for any other bytes."""
    try:
        answer = json.loads(raw)
    except (ValueError, RecursionError):
        raise MalformedError("not-json", "etcd: the answer is not JSON") from None
    if not isinstance(answer, dict):
        raise MalformedError("not-an-object", "etcd: the answer is not a JSON object")
    return answer


def int64(message: Message, key: str) -> int:
    """Return a 64-bit number; a missing one is 0."""
    value = message.get(key, "0")
    if isinstance(value, str) and len(value) < 21 and value.removeprefix("-").isdecimal():
        value = int(value)
    if type(value) is not int or not -_LARGEST <= value < _LARGEST:
        raise MalformedError("invalid-number", f"etcd: invalid number in field {key!r}")
    return value


def child(message: Message, key: str) -> Message:
    """Return an object; a missing one is empty."""
    value = message.get(key, {})
    if not isinstance(value, dict):
        raise MalformedError("field-not-object", f"etcd: field {key!r} is not an object")
    return value


def children(message: Message, key: str) -> list[Message]:
    """Return a list of objects; a missing one is empty."""
    value = message.get(key, [])
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise MalformedError("field-not-list", f"etcd: field {key!r} is not a list of objects")
    return value


def header_revision(message: Message) -> int:
    """Return the revision in the header of an answer."""
    return int64(child(message, "header"), "revision")


def parse_range(message: Message) -> RangeResult:
    """Return the result of a range request."""
    entries = [_entry(entry) for entry in children(message, "kvs")]
    return RangeResult(entries, header_revision(message), message.get("more") is not True)


def parse_transaction(message: Message) -> TransactionResult:
    """Return the result of a transaction."""
    parts = children(message, "responses")
    ranges = [child(part, "response_range") if "response_range" in part else None for part in parts]
    read = [None if part is None else [_entry(entry) for entry in children(part, "kvs")] for part in ranges]
    return TransactionResult(message.get("succeeded") is True, header_revision(message), read)


def parse_watch(message: Message) -> WatchMessage:
    """Return a message of a watch."""
    if "error" in message:
        return WatchMessage([], 0, ended=str(child(message, "error").get("message", "no reason given"))[:200])
    result = child(message, "result")
    changes = [_change(event) for event in children(result, "events")]
    ended = str(result.get("cancel_reason") or "etcd ended the watch")[:200] if result.get("canceled") is True else ""
    is_created = result.get("created") is True
    return WatchMessage(
        changes,
        header_revision(result),
        is_created,
        int64(result, "compact_revision"),
        ended,
        int64(result, "watch_id"),
    )


def _change(message: Message) -> KeyChange:
    kind = message.get("type", "PUT")
    if kind not in ("PUT", "DELETE"):
        raise MalformedError("invalid-event", "etcd: an event is neither PUT nor DELETE")
    return KeyChange(_entry(child(message, "kv")), kind == "PUT")


def _entry(message: Message) -> KeyValue:
    # A key may have any bytes; one that is not text must not prevent reading the others.
    name = _bytes(message, "key").decode(errors="surrogateescape")
    revision, created = int64(message, "mod_revision"), int64(message, "create_revision")
    return KeyValue(name, _bytes(message, "value"), revision, int64(message, "lease"), created)


def _bytes(message: Message, key: str) -> bytes:
    value = message.get(key, "")
    try:
        return base64.b64decode(value, validate=True)
    except (TypeError, ValueError):
        raise MalformedError("invalid-base64", f"etcd: invalid base64 in field {key!r}") from None
