"""The fields of a signed knock to bytes and back."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorward.errors import InvalidValueError, MalformedError
from doorward.model import NAME
from doorward.signed.message import (
    MAX_FOR_MS,
    Request,
    SignedMessage,
    pack_body,
    pack_plaintext,
    parse_plaintext,
    signed_text,
)
from tests.support.errors import raises

NONCE, SIGNER = bytes(range(16)), bytes(range(32))
KNOCK = Request(1_700_000_000_123, NONCE, "ssh", None, None, "", SIGNER)

names = st.from_regex(NAME, fullmatch=True).filter(str.isascii)
places = st.one_of(
    st.none(),
    st.ip_addresses(),
    st.tuples(st.ip_addresses(v=4), st.integers(1, 31)).map(lambda both: ip_network(both, strict=False)),
    st.tuples(st.ip_addresses(v=6), st.integers(1, 127)).map(lambda both: ip_network(both, strict=False)),
)
requests = st.builds(
    Request,
    st.integers(0, (1 << 64) - 1),
    st.binary(min_size=16, max_size=16),
    names,
    st.none() | st.integers(1, (1 << 32) - 1),
    places,
    st.just("") | names,
    st.binary(min_size=32, max_size=32),
)


@given(requests, st.binary(max_size=700), st.integers(0, 300))
def test_message_round_trip(request: Request, signature: bytes, padding: int) -> None:
    body = pack_body(request)
    length = len(body) + 2 + len(signature) + padding
    assert parse_plaintext(pack_plaintext(body, signature, length)) == SignedMessage(request, body, signature)


@given(st.binary(max_size=900))
def test_certificate_replaces_the_fingerprint(certificate: bytes) -> None:
    request = KNOCK._replace(signer=certificate, is_certificate=True)
    body = pack_body(request)
    assert parse_plaintext(pack_plaintext(body, b"s", len(body) + 3)).request == request


@given(st.binary(max_size=500))
def test_any_bytes_are_parsed_or_rejected(raw: bytes) -> None:
    try:
        message = parse_plaintext(raw)
    except MalformedError:
        return
    assert (
        pack_plaintext(pack_body(message.request), message.signature, len(raw)) == raw
    )  # there is one way to write it


@given(requests, st.data())
def test_truncated_message_is_rejected(request: Request, data: st.DataObject) -> None:
    plaintext = pack_plaintext(pack_body(request), b"signature", 600)
    whole = len(pack_body(request)) + 2 + len(b"signature")
    with pytest.raises(MalformedError):
        parse_plaintext(plaintext[: data.draw(st.integers(0, whole - 1))])


@pytest.mark.parametrize(
    ("place", "byte", "code"),
    [
        (0, 2, "unsupported-version"),
        (29, 5, "invalid-prefix"),
        (30, 8, "no-ip-version"),
        (31, 1, "no-ip-version"),
        (48, ord("/"), "invalid-name"),
        (52, 2, "unknown-signer-kind"),
        (54, 31, "fingerprint-size"),
        (-1, 1, "nonzero-padding"),
    ],
)
def test_invalid_fields_are_reported(place: int, byte: int, code: str) -> None:
    plaintext = bytearray(pack_plaintext(pack_body(KNOCK), b"signature", 200))
    plaintext[place] = byte
    with raises(MalformedError, code):
        parse_plaintext(bytes(plaintext))


def test_a_network_has_no_bits_behind_its_prefix() -> None:
    asked = ip_network("192.0.2.0/24")
    plaintext = bytearray(pack_plaintext(pack_body(KNOCK._replace(asked=asked)), b"signature", 200))
    assert parse_plaintext(bytes(plaintext)).request.asked == asked
    plaintext[34] = 1  # 192.0.2.1/24
    with raises(MalformedError, "host-bits"):
        parse_plaintext(bytes(plaintext))
    plaintext[30] = 32  # 192.0.2.1/32, which is an address
    assert parse_plaintext(bytes(plaintext)).request.asked == ip_address("192.0.2.1")


def test_too_long_message_is_rejected() -> None:
    with raises(InvalidValueError, "message-too-long"):
        pack_plaintext(pack_body(KNOCK), bytes(64), 100)


def test_the_signature_is_over_the_servers_key_too() -> None:
    body = pack_body(KNOCK)
    assert signed_text(b"one", body) != signed_text(b"another", body)
    assert signed_text(b"on", b"e" + body) != signed_text(b"one", body)  # the length of the key is included


def test_longest_opening_time_fits() -> None:
    request = KNOCK._replace(for_s=MAX_FOR_MS // 1000)
    body = pack_body(request)
    assert parse_plaintext(pack_plaintext(body, b"", len(body) + 2)).request == request
