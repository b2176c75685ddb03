"""Answers of etcd: any bytes give a value or MalformedError."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorward.errors import MalformedError
from doorward.fleet import etcd_codec

KEY = {"key": etcd_codec.b64("/a"), "value": etcd_codec.b64("x"), "mod_revision": "7"}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(
        ["header", "revision", "kvs", "key", "value", "mod_revision", "result", "events", "kv", "responses", "error"]
    ), inner, max_size=4),
)  # fmt: skip


@given(JSON)
def test_any_json_is_a_value_or_malformed(found: object) -> None:
    for read in (etcd_codec.parse_range, etcd_codec.parse_transaction, etcd_codec.parse_watch):
        with suppress(MalformedError):
            read(etcd_codec.parse(json.dumps(found).encode()))


@given(st.binary())
def test_any_bytes_are_json_or_malformed(raw: bytes) -> None:
    with suppress(MalformedError):
        etcd_codec.parse(raw)


def test_omitted_fields_are_zero() -> None:
    assert etcd_codec.parse_range({}) == etcd_codec.RangeResult([], 0)
    assert etcd_codec.parse_transaction({"succeeded": True}) == etcd_codec.TransactionResult(True, 0, [])


@pytest.mark.parametrize("responses", [[], [{}], [{"response_put": {}}], [{"response_range": {}}] * 2])
def test_incomplete_transaction_is_malformed(responses: list[object]) -> None:
    """What a transaction should have read decides whether a door opens."""
    done = etcd_codec.parse_transaction({"succeeded": True, "responses": responses})
    with pytest.raises(MalformedError):
        done.entries(0, 1)


@pytest.mark.parametrize(
    "kv",
    [KEY | {"key": "no base64!"}, KEY | {"mod_revision": "x"},
     KEY | {"mod_revision": "9" * 19}, KEY | {"mod_revision": 1.5}, KEY | {"value": 3}],
)  # fmt: skip
def test_malformed_key_is_rejected(kv: dict[str, object]) -> None:
    with pytest.raises(MalformedError):
        etcd_codec.parse_range({"kvs": [kv]})


def test_non_text_key_does_not_hide_other_keys() -> None:
    listing = etcd_codec.parse_range({"kvs": [KEY | {"key": etcd_codec.b64(b"/a/\xff")}, KEY]})
    assert len(listing.entries) == 2
    assert etcd_codec.key_range(listing.entries[0].key)["key"] == etcd_codec.b64(b"/a/\xff")


def test_the_range_of_a_prefix_ends_after_it() -> None:
    assert etcd_codec.prefix_end("/doorward/x/") == "/doorward/x0"
