"""The forms of etcd's JSON gateway: what is asked, and what is answered, read strictly. Pure.

Keys and values are base64; numbers of 64 bits are texts; what is zero or empty is left out.
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
    """A key with its value, the revision that wrote it last, and its lease (0: none)."""

    key: str
    value: bytes
    revision: int
    lease: int = 0


class RangeResult(NamedTuple):
    """What stands in a range, at a revision."""

    entries: list[KeyValue]
    revision: int
    is_whole: bool = True  # else there are more keys after the last


class TransactionResult(NamedTuple):
    """How a transaction ended: whether its condition held, the revision, and what it read else."""

    succeeded: bool
    revision: int
    found: KeyValue | None


class KeyChange(NamedTuple):
    """A key was written, or (no value) deleted."""

    entry: KeyValue
    is_put: bool


class WatchMessage(NamedTuple):
    """One message of a watch. `compacted` not 0: what was asked for is gone, older than this revision."""

    changes: list[KeyChange]
    revision: int
    is_created: bool = False
    compacted: int = 0
    ended: str = ""
    watch: int = 0


def b64(data: str | bytes) -> str:
    """Write a key or a value."""
    raw = data.encode(errors="surrogateescape") if isinstance(data, str) else data
    return base64.b64encode(raw).decode()


def after(prefix: str) -> str:
    """Give the end of the range of all keys that begin with `prefix`."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)


def key_range(key: str, end: str = "") -> Message:
    """Name a key, or the keys from it to before `end`."""
    return {"key": b64(key), **({"range_end": b64(end)} if end else {})}


def put(key: str, value: bytes, lease: int = 0) -> Message:
    """Ask for a key to be written."""
    return {"key": b64(key), "value": b64(value), **({"lease": str(lease)} if lease else {})}


def to_put(key: str, value: bytes, lease: int = 0) -> Message:
    """Write a key, as a part of a transaction."""
    return {"request_put": put(key, value, lease)}


def to_delete(key: str) -> Message:
    """Delete a key, as a part of a transaction."""
    return {"request_delete_range": key_range(key)}


def txn(conditions: Sequence[tuple[str, int]], then: Sequence[Message], look: str = "") -> Message:
    """Do `then` if each key was written last at its revision (0: it is not there); else read the key `look`."""
    compare = [{"key": b64(key), "target": "MOD", "mod_revision": str(revision)} for key, revision in conditions]
    failure = [{"request_range": key_range(look)}] if look else []
    return {"compare": compare, "success": list(then), "failure": failure}


def parse(raw: bytes) -> Message:
    """Read one answer: an object. MalformedError for any other bytes."""
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        raise MalformedError("etcd: an answer that is no JSON") from None
    if not isinstance(found, dict):
        raise MalformedError("etcd: an answer that is no object")
    return found


def number(message: Message, key: str) -> int:
    """Read a number of 64 bits."""
    value = message.get(key, "0")
    if isinstance(value, str) and len(value) < 21 and value.removeprefix("-").isdecimal():
        value = int(value)
    if type(value) is not int or not -_LARGEST <= value < _LARGEST:
        raise MalformedError(f"etcd: an answer whose {key!r} is no number")
    return value


def child(message: Message, key: str) -> Message:
    """Read an object."""
    value = message.get(key, {})
    if not isinstance(value, dict):
        raise MalformedError(f"etcd: an answer whose {key!r} is no object")
    return value


def children(message: Message, key: str) -> list[Message]:
    """Read a list of objects."""
    value = message.get(key, [])
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise MalformedError(f"etcd: an answer whose {key!r} is no list of objects")
    return value


def revision(message: Message) -> int:
    """Read the revision at which something was answered."""
    return number(child(message, "header"), "revision")


def listing(message: Message) -> RangeResult:
    """Read the answer to a range."""
    entries = [_entry(each) for each in children(message, "kvs")]
    return RangeResult(entries, revision(message), message.get("more") is not True)


def done(message: Message) -> TransactionResult:
    """Read the answer to a transaction."""
    found = [
        entry for part in children(message, "responses") for entry in children(child(part, "response_range"), "kvs")
    ]
    succeeded = message.get("succeeded") is True
    return TransactionResult(succeeded, revision(message), None if succeeded or not found else _entry(found[0]))


def watched(message: Message) -> WatchMessage:
    """Read a message of a watch."""
    if "error" in message:
        return WatchMessage([], 0, ended=str(child(message, "error").get("message", "no reason given"))[:200])
    result = child(message, "result")
    changes = [_change(each) for each in children(result, "events")]
    ended = str(result.get("cancel_reason") or "etcd ended the watch")[:200] if result.get("canceled") is True else ""
    is_created = result.get("created") is True
    return WatchMessage(
        changes, revision(result), is_created, number(result, "compact_revision"), ended, number(result, "watch_id")
    )


def _change(message: Message) -> KeyChange:
    kind = message.get("type", "PUT")
    if kind not in ("PUT", "DELETE"):
        raise MalformedError("etcd: an event that is neither PUT nor DELETE")
    return KeyChange(_entry(child(message, "kv")), kind == "PUT")


def _entry(message: Message) -> KeyValue:
    # A key may have any bytes; one that is not text must not keep the others from being read.
    name = _bytes(message, "key").decode(errors="surrogateescape")
    return KeyValue(name, _bytes(message, "value"), number(message, "mod_revision"), number(message, "lease"))


def _bytes(message: Message, key: str) -> bytes:
    value = message.get(key, "")
    try:
        return base64.b64decode(value, validate=True)
    except (TypeError, ValueError):
        raise MalformedError(f"etcd: an answer whose {key!r} is no base64") from None
