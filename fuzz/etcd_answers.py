"""What etcd answers, and its contents: anyone who is on the way or can write there must reach no further."""

from __future__ import annotations

from doorward.errors import MalformedError
from doorward.fleet import etcd_codec, etcd_records


def one(data: bytes) -> None:
    """Read an answer as every kind, and each value in it as an opening."""
    try:
        message = etcd_codec.parse(data)
    except MalformedError:
        return
    entries: list[etcd_codec.KeyValue] = []
    for read in (etcd_codec.parse_range, etcd_codec.parse_transaction, etcd_codec.parse_watch):
        try:
            found = read(message)
        except MalformedError:
            continue
        if isinstance(found, etcd_codec.RangeResult):
            entries += found.entries
        elif isinstance(found, etcd_codec.WatchMessage):
            entries += [change.entry for change in found.changes]
    for entry in entries:
        try:
            key, shared = etcd_records.parse(entry.key.rpartition("openings/")[2], entry.value)
        except MalformedError:
            continue
        assert etcd_records.parse(str(key), etcd_records.pack(shared, key)) == (key, shared)
        assert etcd_records.remaining_ms(shared, shared.until_ms, None) <= shared.for_ms
