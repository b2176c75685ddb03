"""The packet around a signed knock, and the server's key."""

from __future__ import annotations

import os
from base64 import b64encode

import pytest

from doorward.errors import MalformedError
from doorward.signed.envelope import CHECK_BYTES, Decryptor, check, keyed_check, plaintext_capacity, seal
from doorward.signed.message import PACKET_BYTES
from doorward.signed.server_key import (
    HYBRID,
    SUITES,
    X25519,
    PrivateKey,
    Suite,
    generate_private_text,
    parse_private_key,
    parse_server_key,
)
from tests.support.errors import raises
from tests.support.signed import SUITES_HERE

suites = pytest.mark.parametrize("suite", SUITES_HERE, ids=lambda suite: suite.name)


def made(suite: Suite) -> PrivateKey:
    return parse_private_key(generate_private_text(suite))


def packet_of(key: PrivateKey) -> bytes:
    suite = key.public.suite
    return seal(key.public, bytes(plaintext_capacity(suite, suite.lengths[0])), os.urandom(32))


@suites
def test_sealed_packet_is_decrypted(suite: Suite) -> None:
    key = made(suite)
    opener = Decryptor(key)
    for length in suite.lengths:
        plaintext = bytes(plaintext_capacity(suite, length))
        packet = seal(key.public, plaintext, os.urandom(32))
        assert len(packet) == length
        assert opener.is_garbage(packet) == ""
        assert opener.open(packet) == plaintext
        assert seal(key.public, plaintext, os.urandom(32)) != packet


@suites
def test_a_bit_changed_anywhere_is_garbage(suite: Suite) -> None:
    key = made(suite)
    packet = packet_of(key)
    opener = Decryptor(key)
    for place in range(8 * len(packet)):
        changed = bytearray(packet)
        changed[place // 8] ^= 1 << place % 8
        assert opener.is_garbage(bytes(changed)) == "check"


@suites
def test_other_lengths_are_garbage(suite: Suite) -> None:
    key = made(suite)
    packet = packet_of(key)
    opener = Decryptor(key)
    for length in range(len(packet)):
        assert opener.is_garbage(packet[:length]) in ("length", "check")
    assert opener.is_garbage(packet + b"\0") == "length"


@suites
def test_valid_check_with_an_unsealed_body_is_rejected(suite: Suite) -> None:
    """The check is valid, but the body was not sealed."""
    key = made(suite)
    opener = Decryptor(key)
    packet = bytearray(packet_of(key))
    for place in range(CHECK_BYTES, len(packet), 7):
        packet[place] ^= 1
        packet[:CHECK_BYTES] = check(keyed_check(key.public), bytes(packet[CHECK_BYTES:]))
        assert opener.is_garbage(bytes(packet)) == ""
        with raises(MalformedError, "not-sealed-to-key"):
            opener.open(bytes(packet))


@suites
def test_a_packet_for_one_server_is_garbage_at_another(suite: Suite) -> None:
    packet = packet_of(made(suite))
    assert Decryptor(made(suite)).is_garbage(packet) == "check"


def test_small_order_public_key_is_rejected() -> None:
    """RFC 7748, section 6.1: a sender whose key is of small order knows the outcome."""
    key = made(X25519)
    sealed = bytes(32) + bytes(190 - CHECK_BYTES - 32)
    packet = check(keyed_check(key.public), sealed) + sealed
    with pytest.raises(MalformedError):
        Decryptor(key).open(packet)


def test_no_two_lengths_are_the_same() -> None:
    assert sorted(PACKET_BYTES) == sorted({length for suite in SUITES.values() for length in suite.lengths})
    assert max(PACKET_BYTES) <= 1400


# The server's key as text


@suites
def test_public_key_round_trip(suite: Suite) -> None:
    key = made(suite)
    text = str(key.public)
    assert text == text.split()[0]
    assert text.startswith(f"{suite.name}:")
    assert parse_server_key(text) == key.public
    assert parse_server_key(f" {text}\n") == key.public


def test_no_two_keys_are_the_same() -> None:
    assert generate_private_text(X25519) != generate_private_text(X25519)
    first, second = made(X25519).public, made(X25519).public
    assert first.fingerprint != second.fingerprint
    assert first.fingerprint.startswith("SHA256:")


def test_private_server_key_has_no_revealing_repr() -> None:
    text = generate_private_text(X25519)
    secret = text.splitlines()[-1].partition(":")[2]
    assert secret not in repr(parse_private_key(text))


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "key-prefix"),
        ("rsa:AAAA", "key-prefix"),
        ("x25519", "key-prefix"),
        ("x25519:????", "invalid-base64"),
        ("x25519:AAAA", "key-size"),
        ("x25519-private:" + "A" * 43 + "=", "key-prefix"),
        ("x25519:" + "A" * 43 + "=", "invalid-bytes"),  # a point of low order
        *(
            pytest.param(
                f"mlkem768-x25519:{b64encode(raw).decode()}",
                "invalid-bytes",
                marks=pytest.mark.skipif(HYBRID not in SUITES_HERE, reason="cryptography is too old"),
            )
            for raw in (bytes([255]) * 1216, bytes(1216))
        ),
    ],
)
def test_invalid_server_key_is_rejected(text: str, code: str) -> None:
    with raises(MalformedError, code):
        parse_server_key(text)


@pytest.mark.parametrize(
    "text",
    ["", "# only a comment\n", generate_private_text(X25519) * 2, str(made(X25519).public)],
    ids=["empty", "a comment", "two", "the public half"],
)
def test_invalid_private_key_is_rejected(text: str) -> None:
    with pytest.raises(MalformedError):
        parse_private_key(text)
