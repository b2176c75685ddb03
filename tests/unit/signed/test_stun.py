"""Signed knocks in STUN frames: one form only, and the response that a browser takes."""

from __future__ import annotations

import struct
from contextlib import suppress
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorward.errors import MalformedError
from doorward.signed.reply import ReplySecret
from doorward.signed.stun import has_integrity, ice_password, success_response, transaction_of, unwrap
from tests.support.errors import raises
from tests.support.strategies import plain_addresses
from tests.support.stun import stun_request
from tests.support.vectors import VECTORS

STUN = VECTORS["stun"]
FRAME = bytes.fromhex(STUN["request"])
PASSWORD = STUN["ice_pwd"].encode()
(EXAMPLE,) = [each for each in VECTORS["packets"] if each["name"] == STUN["packet"]]
CODES = {
    "unused bits of the last letter not zero": "stun-packet",
    "no colon": "stun-packet",
    "wrong cookie": "stun-header",
    "length field": "stun-header",
    "url-safe letter": "stun-packet",
    "newline within": "stun-packet",
    "response": "stun-header",
    "username cut": "stun-username",
}


def test_the_example_of_a_frame() -> None:
    assert unwrap(FRAME).hex() == EXAMPLE["packet"]
    assert ice_password(ReplySecret(bytes.fromhex(EXAMPLE["reply_secret"]))) == PASSWORD
    assert has_integrity(FRAME, PASSWORD)


@pytest.mark.parametrize("name", CODES)
def test_the_examples_of_rejected_frames(name: str) -> None:
    with raises(MalformedError, CODES[name]):
        unwrap(bytes.fromhex(STUN["refused"][name]))


@pytest.mark.parametrize("family", ["v4", "v6"])
def test_the_examples_of_responses(family: str) -> None:
    example = STUN[f"response_{family}"]
    response = success_response(transaction_of(FRAME), ip_address(example["address"]), example["port"], PASSWORD)
    assert response.hex() == example["frame"]
    assert len(response) == {"v4": 64, "v6": 76}[family] < len(FRAME)


@given(st.binary(min_size=190, max_size=190), st.binary(min_size=1, max_size=200), st.binary(min_size=12, max_size=12))
def test_round_trip(packet: bytes, name: bytes, transaction: bytes) -> None:
    frame = stun_request(packet, name, transaction, PASSWORD)
    assert unwrap(frame) == packet
    assert has_integrity(frame, PASSWORD)
    assert not has_integrity(frame, PASSWORD[::-1])


def test_any_changed_bit_in_front_of_the_colon_changes_the_packet_or_is_rejected() -> None:
    header, attribute, packet = range(8), range(20, 22), range(24, 24 + 255)  # the transaction may be any
    for at in (8 * byte + bit for byte in (*header, *attribute, *packet) for bit in range(8)):
        changed = bytearray(FRAME)
        changed[at // 8] ^= 1 << at % 8
        try:
            assert unwrap(bytes(changed)) != unwrap(FRAME)
        except MalformedError:
            continue
        assert at // 8 in packet


def test_nothing_behind_the_colon_is_read() -> None:
    begin = 24 + 255
    for filling in (b"\0", b"\xff", b":"):
        assert unwrap(FRAME[:begin] + filling * (len(FRAME) - begin)) == unwrap(FRAME)


@pytest.mark.parametrize("length", [0, 19, 20, 278, 299, 1401, 65535])
def test_frames_of_another_size_are_rejected(length: int) -> None:
    with raises(MalformedError, "stun-size"):
        unwrap((FRAME + bytes(length))[:length])


@given(st.binary(max_size=1500) | st.binary(max_size=1500).map(lambda raw: FRAME[:280] + raw), st.binary(max_size=30))
def test_any_bytes_are_a_packet_or_an_error(frame: bytes, password: bytes) -> None:
    has_integrity(frame, password)
    with suppress(MalformedError):
        assert len(unwrap(frame)) == 190


@given(plain_addresses, st.integers(1, 65535))
def test_response_names_the_source(source: object, port: int) -> None:
    response = success_response(transaction_of(FRAME), source, port, PASSWORD)  # type: ignore[arg-type]
    kind, length = struct.unpack_from("!HH", response)
    assert (kind, length) == (0x0101, len(response) - 20)
    assert response[8:20] == FRAME[8:20]
    assert has_integrity(response, PASSWORD)
