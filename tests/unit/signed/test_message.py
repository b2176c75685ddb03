"""The fields of a signed knock to bytes and back."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorward.errors import InvalidValueError, MalformedError
from doorward.signed.message import (
    BODY_BYTES,
    CERTIFICATE,
    CLOSE,
    CONFIRM,
    MAX_FOR_MS,
    MAX_TIME_MS,
    ONCE,
    RAW_PLAINTEXT_BYTES,
    Request,
    SignedMessage,
    message_number,
    pack_body,
    pack_plaintext,
    parse_plaintext,
    signed_text,
    signer_hash,
    target_hash,
)
from doorward.signed.ssh_wire import string
from tests.support.errors import raises
from tests.support.strategies import plain_addresses, plain_networks
from tests.support.vectors import VECTORS

NONCE, TARGET, SIGNER = bytes(range(8)), bytes(range(12)), bytes(range(100, 112))
KNOCK = Request(1_700_000_000_123, NONCE, TARGET, SIGNER)
SHORT, LONG, HYBRID = 384, 1304, 220  # plaintexts

places = st.none() | plain_addresses | plain_networks.filter(lambda network: not str(network).startswith("::ffff:"))
hashes = st.binary(min_size=12, max_size=12)
openings = st.builds(
    Request,
    st.integers(0, MAX_TIME_MS),
    st.binary(min_size=8, max_size=8),
    hashes,
    hashes,
    st.none() | st.integers(1, (1 << 32) - 1),
    places,
    st.sampled_from([0, ONCE, CONFIRM, ONCE | CONFIRM]),
)
requests = st.one_of(
    openings, openings.map(lambda found: found._replace(for_s=None, flags=CLOSE | (found.flags & CONFIRM)))
)
raw_signatures = st.binary(min_size=64, max_size=64)


def plain(request: Request = KNOCK, signature: bytes = b"signature", length: int = SHORT) -> bytearray:
    return bytearray(pack_plaintext(pack_body(request), signature, length))


def says(plaintext: bytes | bytearray) -> str:
    with pytest.raises(MalformedError) as raised:
        parse_plaintext(bytes(plaintext))
    return str(raised.value)


@given(requests, raw_signatures)
def test_message_with_a_raw_signature_round_trip(request: Request, signature: bytes) -> None:
    body = pack_body(request)
    plaintext = pack_plaintext(body, signature, RAW_PLAINTEXT_BYTES)
    assert plaintext == body + signature
    assert parse_plaintext(plaintext) == SignedMessage(request, body, signature, is_raw=True)


@given(requests, st.binary(max_size=156))
def test_message_round_trip(request: Request, signature: bytes) -> None:
    body = pack_body(request)
    for length in (SHORT, HYBRID):
        assert parse_plaintext(pack_plaintext(body, signature, length)) == SignedMessage(request, body, signature)


@given(requests, st.binary(min_size=321, max_size=1240))
def test_message_with_a_long_signature_round_trip(request: Request, signature: bytes) -> None:
    body = pack_body(request)
    assert parse_plaintext(pack_plaintext(body, signature, LONG)) == SignedMessage(request, body, signature)


@given(st.binary(min_size=320, max_size=1100))
def test_certificate_is_the_signer(certificate: bytes) -> None:
    body = pack_body(KNOCK._replace(signer=signer_hash(certificate), flags=CERTIFICATE))
    message = parse_plaintext(pack_plaintext(body, b"signature", LONG, certificate))
    assert (message.certificate, message.signature) == (certificate, b"signature")


@given(st.sampled_from([RAW_PLAINTEXT_BYTES, SHORT, LONG, HYBRID]), st.binary(max_size=400))
def test_any_bytes_are_parsed_or_rejected(length: int, raw: bytes) -> None:
    whole = raw[:length].ljust(length, b"\0")
    for plaintext in (raw, whole, b"\1\0" + whole[2:]):
        try:
            message = parse_plaintext(plaintext)
        except MalformedError:
            continue
        assert pack_body(message.request) == message.body  # there is one way to write it
        assert pack_plaintext(message.body, message.signature, len(plaintext), message.certificate) == plaintext


@given(requests, st.data())
def test_truncated_message_is_rejected(request: Request, data: st.DataObject) -> None:
    plaintext = pack_plaintext(pack_body(request), b"signature", BODY_BYTES + 11)
    with pytest.raises(MalformedError):
        parse_plaintext(plaintext[: data.draw(st.integers(0, len(plaintext) - 1))])


@pytest.mark.parametrize(
    ("place", "byte", "words"),
    [
        (0, 2, "unsupported version 2; expected 1"),
        (1, 16, "unknown flags 0x10"),
        (1, 128 + 4, "unknown flags 0x84"),
        (1, CLOSE | ONCE, "closing, together with"),
        (20, 5, "an address of version 5"),
        (20, 4, "an address of version 4 with a prefix of 0"),
        (21, 8, "an address without an IP version"),
        (22, 1, "an address without an IP version"),
        (-1, 1, "non-zero padding"),
    ],
)
def test_invalid_fields_are_reported(place: int, byte: int, words: str) -> None:
    plaintext = plain()
    plaintext[place] = byte
    assert words in says(plaintext)


def test_closing_has_no_time() -> None:
    assert "closing, together with a time" in says(plain(KNOCK._replace(flags=CLOSE, for_s=1)))


def test_a_network_has_no_bits_behind_its_prefix() -> None:
    asked = ip_network("192.0.2.0/24")
    plaintext = plain(KNOCK._replace(asked=asked))
    assert parse_plaintext(bytes(plaintext)).request.asked == asked
    plaintext[25] = 1  # 192.0.2.1/24
    assert says(plaintext) == "a network with host bits set"
    plaintext[21] = 32  # 192.0.2.1/32, which is an address
    assert parse_plaintext(bytes(plaintext)).request.asked == ip_address("192.0.2.1")
    plaintext[26] = 1  # behind the address
    assert "an address of version 4" in says(plaintext)


@pytest.mark.parametrize("bits", [96, 127, 128])
def test_ipv4_address_in_the_form_of_ipv6_is_rejected(bits: int) -> None:
    mapped = ip_network("::ffff:0:0/96") if bits == 96 else ip_network(f"::ffff:203.0.113.8/{bits}")
    with pytest.raises(ValueError, match="an IPv4 address in IPv6's form"):
        pack_body(KNOCK._replace(asked=mapped))
    plaintext = plain(KNOCK._replace(asked=ip_network("2001:db8::/32")))
    plaintext[21:38] = bytes([bits]) + mapped.network_address.packed
    assert says(plaintext) == "an IPv4 address in IPv6's form"


def test_a_signature_has_one_form_and_its_packet_one_length() -> None:
    for kind in (b"ssh-ed25519", b"ecdsa-sha2-nistp256"):
        signature = string(kind) + string(bytes(64))
        assert "a signature that belongs, raw, in a packet of 190 bytes" in says(plain(signature=signature))
        parse_plaintext(bytes(plain(signature=signature, length=HYBRID)))
    for length in (9, 320):
        parse_plaintext(bytes(plain(signature=bytes(length))))
        assert "belongs in a packet of 448 bytes" in says(plain(signature=bytes(length), length=LONG))
    parse_plaintext(bytes(plain(signature=bytes(321), length=LONG)))
    assert not parse_plaintext(bytes(plain(signature=bytes(64)))).is_raw


def test_certificate_and_flag_go_together() -> None:
    certificate = b"certificate" * 30
    announced = KNOCK._replace(flags=CERTIFICATE, signer=signer_hash(certificate))
    without_flag = pack_plaintext(pack_body(announced._replace(flags=0)), b"signature", LONG, certificate)
    assert says(without_flag) == "non-zero padding"
    other = pack_plaintext(pack_body(announced._replace(signer=SIGNER)), b"signature", LONG, certificate)
    assert says(other) == "a certificate that is not the signer"
    empty = pack_body(announced._replace(signer=signer_hash(b""))) + b"\0\0" + b"\0\1s"
    assert says(empty.ljust(SHORT, b"\0")) == "a certificate that is not the signer"
    raw = plain(announced, bytes(64), RAW_PLAINTEXT_BYTES)
    assert says(raw) == "a certificate announced in a packet without room for one"


def test_too_long_message_is_rejected() -> None:
    with raises(InvalidValueError, "message-too-long"):
        pack_plaintext(pack_body(KNOCK), bytes(64), 100)


def test_out_of_range_fields_are_rejected() -> None:
    with pytest.raises(OverflowError):
        pack_body(KNOCK._replace(time_ms=MAX_TIME_MS + 1))


def test_the_signature_is_over_the_servers_key_too() -> None:
    body = pack_body(KNOCK)
    assert signed_text(b"one", body) != signed_text(b"another", body)
    assert signed_text(b"on", b"e" + body) != signed_text(b"one", body)  # the length of the key is included


def test_longest_opening_time_fits() -> None:
    request = KNOCK._replace(for_s=MAX_FOR_MS // 1000)
    assert parse_plaintext(bytes(plain(request))).request == request


@pytest.mark.parametrize("example", VECTORS["targets"], ids=lambda example: f"{example['gate']}-{example['door']}")
def test_the_examples_of_targets(example: dict[str, str]) -> None:
    assert target_hash(example["gate"], example["door"]).hex() == example["target"]


@pytest.mark.parametrize("example", VECTORS["packets"], ids=lambda example: example["name"])
def test_the_examples_of_messages(example: dict[str, str]) -> None:
    plaintext = bytes.fromhex(example["plaintext"])
    message = parse_plaintext(plaintext)
    assert message.body.hex() == example["body"] == pack_body(message.request).hex()
    assert message.signature.hex() == example["signature"]
    assert message.certificate.hex() == example.get("certificate", "")
    assert message.request.signer == signer_hash(message.certificate or bytes.fromhex(example["key_blob"]))
    assert message_number(message.body).hex() == example["number"]
    assert pack_plaintext(message.body, message.signature, len(plaintext), message.certificate) == plaintext
