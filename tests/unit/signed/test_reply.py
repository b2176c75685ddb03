"""The sealed confirmation of a signed knock."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from doorward.errors import MalformedError
from doorward.signed.reply import Confirmation, ReplySecret, _key_and_nonce, open_reply, reply_secret, seal_reply
from tests.support.strategies import plain_addresses
from tests.support.vectors import VECTORS

OPEN = Confirmation(ip_address("203.0.113.9"), 30, 1_796_000_000_163)
SECRET = ReplySecret(bytes(range(32)))
SALT = bytes(16)


@pytest.mark.parametrize("example", VECTORS["packets"], ids=lambda example: example["name"])
def test_the_examples_of_secrets(example: dict[str, str]) -> None:
    packet, plaintext = bytes.fromhex(example["packet"]), bytes.fromhex(example["plaintext"])
    assert reply_secret(packet[:16], plaintext).hex() == example["reply_secret"]


@pytest.mark.parametrize("example", VECTORS["replies"], ids=lambda example: example["means"])
def test_the_examples_of_replies(example: dict[str, str]) -> None:
    (to,) = [each for each in VECTORS["packets"] if each["name"] == example["to"]]
    secret, datagram = ReplySecret(bytes.fromhex(to["reply_secret"])), bytes.fromhex(example["reply"])
    confirmation = open_reply(secret, datagram)
    assert confirmation.source == OPEN.source
    assert confirmation.left_s == (None if example["means"].startswith("closed") else 30)
    assert seal_reply(secret, confirmation, bytes.fromhex(example["salt"])) == datagram


@given(
    plain_addresses,
    st.none() | st.integers(0, (1 << 32) - 1),
    st.integers(0, (1 << 48) - 1),
    st.binary(min_size=16, max_size=16),
)
def test_reply_round_trip(place: object, left_s: int | None, time_ms: int, salt: bytes) -> None:
    confirmation = Confirmation(place, left_s, time_ms)  # type: ignore[arg-type]
    datagram = seal_reply(SECRET, confirmation, salt)
    assert len(datagram) == 80
    assert open_reply(SECRET, datagram) == confirmation


def test_any_changed_bit_or_length_of_a_reply_is_found() -> None:
    datagram = seal_reply(SECRET, OPEN, SALT)
    for at in range(8 * len(datagram)):
        changed = bytearray(datagram)
        changed[at // 8] ^= 1 << at % 8
        with pytest.raises(MalformedError, match="not a reply to this knock"):
            open_reply(SECRET, bytes(changed))
    for length in {*range(100)} - {80}:
        with pytest.raises(MalformedError, match=f"a reply of {length} bytes; it has 80"):
            open_reply(SECRET, (datagram + bytes(20))[:length])
    with pytest.raises(MalformedError, match="not a reply to this knock"):
        open_reply(ReplySecret(bytes(32)), datagram)


@pytest.mark.parametrize(
    ("place", "byte", "words"),
    [
        (0, 2, "a reply of unsupported version 2; expected 1"),
        (1, 2, "a reply with unknown contents"),
        (1, 1, "a reply with unknown contents"),  # closed, with seconds left
        (2, 0, "an address without an IP version"),
        (47, 1, "a reply with unknown contents"),
    ],
)
def test_reply_of_another_form_is_rejected(place: int, byte: int, words: str) -> None:
    key, nonce = _key_and_nonce(SECRET, SALT)
    text = bytearray(AESGCM(key).decrypt(nonce, seal_reply(SECRET, OPEN, SALT)[16:], None))
    text[place] = byte
    with pytest.raises(MalformedError, match=words):
        open_reply(SECRET, SALT + AESGCM(key).encrypt(nonce, bytes(text), None))


def test_secret_has_no_revealing_repr() -> None:
    assert repr(SECRET) == "ReplySecret()"


@given(
    st.lists(
        st.tuples(st.binary(min_size=32, max_size=32), st.binary(min_size=16, max_size=16)), unique=True, max_size=50
    )
)
def test_no_two_replies_share_a_key_and_a_nonce(sealed: list[tuple[bytes, bytes]]) -> None:
    """Of any gates with one server key: the salt is random for each reply, the secret another for each message."""
    used = [_key_and_nonce(ReplySecret(secret), salt) for secret, salt in sealed]
    assert len(set(used)) == len(sealed)


@given(st.binary(min_size=16, max_size=16), st.binary(min_size=16, max_size=16), st.binary(), st.binary())
def test_each_packet_has_its_own_secret(check: bytes, other: bytes, plaintext: bytes, second: bytes) -> None:
    is_same = (check, plaintext) == (other, second)
    assert (reply_secret(check, plaintext) == reply_secret(other, second)) == is_same
