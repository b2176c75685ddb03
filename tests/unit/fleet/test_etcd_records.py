"""Records in etcd: round trips, malformed values, and the remaining time of an opening."""

from __future__ import annotations

from contextlib import suppress
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorward.errors import MalformedError
from doorward.fleet import etcd_records, protocol
from doorward.fleet.etcd_records import OpeningKey, StoredOpening, remaining_ms
from doorward.model import Source

KEY = OpeningKey("ssh", ip_address("2001:db8::7"))
SHARED = StoredOpening(30_000, 1_800_000_030_000, 5_000, "knock", "edge-1")
WRITTEN_MS = SHARED.until_ms - SHARED.for_ms


@pytest.mark.parametrize("source", [ip_address("192.0.2.7"), ip_network("192.0.2.0/24"), ip_network("2001:db8::/32")])
def test_stored_opening_round_trip(source: Source) -> None:
    key = OpeningKey("ssh", source)
    assert etcd_records.parse(str(key), etcd_records.pack(SHARED, key)) == (key, SHARED)


@given(st.text(), st.binary() | st.just(etcd_records.pack(SHARED, KEY)))
def test_any_value_is_an_opening_or_malformed(rest: str, raw: bytes) -> None:
    with suppress(MalformedError):
        etcd_records.parse(rest, raw)


@pytest.mark.parametrize(
    ("rest", "raw"),
    [
        ("ssh/192.0.2.7", etcd_records.pack(SHARED, KEY)),
        ("ssh/2001:DB8::7", etcd_records.pack(SHARED, KEY)),
        (str(KEY), etcd_records.pack(SHARED._replace(for_ms=-1), KEY)),
        (str(KEY), etcd_records.pack(SHARED._replace(for_ms=1 << 60), KEY)),
        (str(KEY), etcd_records.pack(SHARED._replace(by="a\nb"), KEY)),
        (str(KEY), etcd_records.pack(SHARED._replace(gate="no name"), KEY)),
        (str(KEY), b"[" * 100_000),
    ],
)
def test_malformed_openings_are_rejected(rest: str, raw: bytes) -> None:
    with pytest.raises(MalformedError):
        etcd_records.parse(rest, raw)


@pytest.mark.parametrize(
    ("clock_ms", "oldest_ms", "lease_ms", "left"),
    [
        (0, 1000, None, 30_000),
        (200, 1000, None, 29_800),
        (-400, 1000, None, 30_000),  # clocks differ a little
        (-3_600_000, 1000, None, 29_000),  # a wrong clock: the greatest possible age
        (3_600_000, 1000, None, 29_000),
        (10_000, None, None, 20_000),  # unknown age: by the clock
        (-3_600_000, None, None, 30_000),  # never longer than its duration
        (-3_600_000, None, 15_000, 11_000),  # by the rest of its lease
        (10_000, None, 60_000, 20_000),  # an extended lease extends nothing
        (3_600_000, None, 15_000, -3_570_000),
    ],
)
def test_remaining_time(clock_ms: int, oldest_ms: int | None, lease_ms: int | None, left: int) -> None:
    assert remaining_ms(SHARED, WRITTEN_MS + clock_ms, oldest_ms, lease_ms) == left


@given(st.integers(-(10**9), 10**9), st.none() | st.integers(0, 10**6), st.none() | st.integers(0, 10**6))
def test_remaining_time_never_exceeds_the_duration(clock_ms: int, oldest_ms: int | None, lease_ms: int | None) -> None:
    assert remaining_ms(SHARED, WRITTEN_MS + clock_ms, oldest_ms, lease_ms) <= SHARED.for_ms


ITEM = protocol.build_item(KEY, 5, "knock", 9)
MESSAGES: list[protocol.Message] = [
    protocol.OpeningsSnapshot([ITEM], [KEY], True),
    protocol.Opened([ITEM, ITEM]),
    protocol.Closed([KEY]),
    protocol.Claim(3, ["00" * 16]),
    protocol.Claimed(3, [True, False], ""),
    protocol.Claimed(3, None, "no answer"),
    protocol.Recorded("refused", "", "192.0.2.0/24", "why"),
    protocol.LogMessage("etcd-unavailable", "warning", "words"),
    protocol.State(True, 1, 2, 3),
]


@pytest.mark.parametrize("letter", ["\N{GRINNING FACE}", '"', "\N{LATIN SMALL LETTER E WITH ACUTE}"])
def test_largest_batch_fits_in_a_message(letter: str) -> None:
    key = OpeningKey("d" * 64, ip_network("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ff00/120"))
    items = [
        protocol.build_item(key, 1 << 53, letter * etcd_records.MAX_TEXT_LENGTH, 1 << 53)
    ] * protocol.MAX_PER_MESSAGE
    raw = protocol.pack(protocol.Opened(items))
    assert len(raw) <= protocol.MESSAGE_BYTES
    assert protocol.parse(raw) == protocol.Opened(items)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_message_round_trip(message: protocol.Message) -> None:
    assert protocol.parse(protocol.pack(message)) == message


@given(st.binary() | st.sampled_from([protocol.pack(message)[:-2] for message in MESSAGES]))
def test_any_bytes_are_a_message_or_malformed(raw: bytes) -> None:
    with suppress(MalformedError):
        protocol.parse(raw)


@pytest.mark.parametrize(
    "raw",
    [
        b'{"what": "Opened", "openings": [["ssh", "192.0.2.7", -1, "x"]]}',
        b'{"what": "Opened", "openings": [["../x", "192.0.2.7", 1, "x"]]}',
        b'{"what": "Opened", "openings": [["ssh", "fe80::1%eth0", 1, "x"]]}',
        b'{"what": "Claimed", "number": 1, "are_new": [1], "why": ""}',
        b'{"what": "Claim", "number": 1, "ids": ["00"]}',
        b'{"what": "LogMessage", "level": "info\\n", "words": ""}',
        b'{"what": "nothing"}',
        b"[]",
        b"",
    ],
)
def test_malformed_messages_are_rejected(raw: bytes) -> None:
    with pytest.raises(MalformedError):
        protocol.parse(raw)
