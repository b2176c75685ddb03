"""Records in etcd: round trips, malformed values, and the remaining time of an opening."""

from __future__ import annotations

from contextlib import suppress
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorward.errors import MalformedError
from doorward.fleet import etcd_records, protocol
from doorward.fleet.etcd_records import KeySpace, OpeningKey, StoredOpening, remaining_ms
from doorward.model import Source

KEY = OpeningKey("ssh", ip_address("2001:db8::7"))
ADA = KEY._replace(signer="ada".ljust(24, "0"))
SHARED = StoredOpening(30_000, 1_800_000_030_000, 5_000, "knock", "edge-1")
WRITTEN_MS = SHARED.until_ms - SHARED.for_ms


@pytest.mark.parametrize("source", [ip_address("192.0.2.7"), ip_network("192.0.2.0/24"), ip_network("2001:db8::/32")])
def test_stored_opening_round_trip(source: Source) -> None:
    key = OpeningKey("ssh", source)
    assert etcd_records.parse(str(key), etcd_records.pack(SHARED, key)) == (key, SHARED)
    share, dated = key._replace(signer=ADA.signer), SHARED._replace(dated_ms=7)
    assert etcd_records.parse(str(share), etcd_records.pack(dated, share)) == (share, dated)
    close = KeySpace("shop").close(share, 7)
    assert etcd_records.parse_close(close.removeprefix("/doorward/shop/closes/")) == (share, 7)


@given(st.text() | st.builds("{}/{:016}".format, st.just(str(ADA)) | st.text(), st.integers()))
def test_any_key_is_a_close_or_malformed(rest: str) -> None:
    with suppress(ValueError):
        key, dated_ms = etcd_records.parse_close(rest)
        assert KeySpace("shop").close(key, dated_ms) == f"/doorward/shop/closes/{rest}"


@pytest.mark.parametrize(
    "rest",
    [
        f"{KEY}/0000000000000007",  # without a signer
        f"{ADA}/7",
        f"{ADA}/0000000000000000",
        f"{ADA}/9999999999999999",  # in no time that a message can have
        f"{ADA}/000000000000000\u0667",
        f"{ADA}0/0000000000000007",
        f"{KEY}/key//0000000000000007",
        f"ssh/2001:db8::7/key/{ADA.signer}/key/{ADA.signer}/0000000000000007",
    ],
)
def test_malformed_closes_are_rejected(rest: str) -> None:
    with pytest.raises(ValueError, match=r"invalid|form|signer"):
        etcd_records.parse_close(rest)


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
        (str(KEY), etcd_records.pack(SHARED, ADA)),
        (str(KEY), etcd_records.pack(SHARED._replace(dated_ms=7), KEY)),
        (str(ADA), etcd_records.pack(SHARED, ADA)),  # no date
        (f"{KEY}/key/", etcd_records.pack(SHARED, KEY)),
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
    protocol.OpeningsSnapshot([ITEM], [protocol.Close(KEY)], True),
    protocol.Opened([ITEM, ITEM._replace(key=ADA, dated_ms=7)]),
    protocol.Closed([protocol.Close(KEY), protocol.Close(ADA, 7), protocol.Close(ADA, 7, is_signed=True)]),
    protocol.Claim(3, [protocol.KnockClaim("00" * 16, ADA, 7, is_close=True)]),
    protocol.Claimed(3, ["new", "used", "closed"], ""),
    protocol.Claimed(3, None, "no answer"),
    protocol.Recorded("refused", "", "192.0.2.0/24", "why"),
    protocol.LogMessage("etcd-unavailable", "warning", "words"),
    protocol.State(True, 1, 2, 3),
]


@pytest.mark.parametrize("letter", ["\N{GRINNING FACE}", '"', "\N{LATIN SMALL LETTER E WITH ACUTE}"])
def test_largest_batch_fits_in_a_message(letter: str) -> None:
    key = OpeningKey("d" * 64, ip_network("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ff00/120"), ADA.signer)
    items = [
        protocol.build_item(key, 1 << 53, letter * etcd_records.MAX_TEXT_LENGTH, 1 << 53, 1 << 53)
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
        b'{"what": "Opened", "openings": [[["ssh", "192.0.2.7", ""], -1, "x", 1, 0]]}',
        b'{"what": "Opened", "openings": [[["../x", "192.0.2.7", ""], 1, "x", 1, 0]]}',
        b'{"what": "Opened", "openings": [[["ssh", "fe80::1%eth0", ""], 1, "x", 1, 0]]}',
        b'{"what": "Opened", "openings": [[["ssh", "192.0.2.7", "0A"], 1, "x", 1, 7]]}',
        b'{"what": "Opened", "openings": [[["ssh", "192.0.2.7", ""], 1, "x", 1, 7]]}',  # a date without a signer
        b'{"what": "Closed", "closes": [[["ssh", "192.0.2.7", "000000000000000000000000"], 0, true]]}',
        b'{"what": "Claimed", "number": 1, "outcomes": [true], "why": ""}',
        b'{"what": "Claimed", "number": 1, "outcomes": [["new"]], "why": ""}',
        b'{"what": "Claim", "number": 1, "knocks": [["00", ["ssh", "192.0.2.7", ""], 0, true]]}',
        b'{"what": "LogMessage", "level": "info\\n", "words": ""}',
        b'{"what": "nothing"}',
        b"[]",
        b"",
    ],
)
def test_malformed_messages_are_rejected(raw: bytes) -> None:
    with pytest.raises(MalformedError):
        protocol.parse(raw)
