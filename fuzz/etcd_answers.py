"""What etcd answers, and what stands in it: whoever is on the way or can write there must reach no further."""

from __future__ import annotations

from doorward.errors import MalformedError
from doorward.fleet import forms, records


def one(data: bytes) -> None:
    """Read an answer as every kind, and each value in it as an opening."""
    try:
        message = forms.parse(data)
    except MalformedError:
        return
    entries: list[forms.Entry] = []
    for read in (forms.listing, forms.done, forms.watched):
        try:
            found = read(message)
        except MalformedError:
            continue
        if isinstance(found, forms.Listing):
            entries += found.entries
        elif isinstance(found, forms.Watched):
            entries += [change.entry for change in found.changes]
    for entry in entries:
        try:
            key, shared = records.parse(entry.key.rpartition("openings/")[2], entry.value)
        except MalformedError:
            continue
        assert records.parse(str(key), records.pack(shared, key)) == (key, shared)
        assert records.left_ms(shared, shared.until_ms, None) <= shared.for_ms
