"""HPKE of both suites: RFC 9180's example, the examples of the page, and `cryptography`'s own where it has one."""

from __future__ import annotations

import os
import sys

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from doorward.errors import HostError, MalformedError
from doorward.signed import hpke
from doorward.signed.server_key import HYBRID, generate_private_text
from tests.support.vectors import SERVER, VECTORS

INFO = b"doorward signed knock 1"
PRIVATE = bytes.fromhex(VECTORS["server"]["private"])


def test_example_of_the_rfc() -> None:
    """A.1.1, whose messages have aad."""
    example = {name: bytes.fromhex(value) for name, value in VECTORS["hpke_rfc9180_a11"].items()}
    ephemeral = X25519PrivateKey.from_private_bytes(example["skE"])
    shared = ephemeral.exchange(X25519PublicKey.from_public_bytes(SERVER.public.raw))
    enc = hpke.public_of(example["skE"])
    key, nonce = hpke.key_and_nonce(shared, enc, SERVER.public.raw, example["info"])
    assert (key, nonce) == (example["key"], example["base_nonce"])
    assert AESGCM(key).encrypt(nonce, example["plaintext"], example["aad"]) == example["ciphertext"]


def test_derived_key_is_that_of_the_rfc() -> None:
    ikm = bytes.fromhex("7268600d403fce431561aef583ee1613527cff655c1343f29812e66706df3234")  # ikmE of A.1.1
    assert hpke.derive_private(ikm).hex() == VECTORS["hpke_rfc9180_a11"]["skE"]


@pytest.mark.parametrize(
    "example", [each for each in VECTORS["packets"] if "ephemeral_private" in each], ids=lambda each: each["name"]
)
def test_the_examples_are_sealed_alike(example: dict[str, str]) -> None:
    ephemeral, plaintext = bytes.fromhex(example["ephemeral_private"]), bytes.fromhex(example["plaintext"])
    sealed = hpke.seal_with(ephemeral, SERVER.public.raw, plaintext, INFO)
    assert sealed.hex() == example["packet"][32:]
    assert hpke.opener(PRIVATE, INFO)(sealed) == plaintext


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_the_same_random_bytes_seal_two_plaintexts_with_two_keys(one: bytes, other: bytes) -> None:
    first, second = (hpke.seal(SERVER.public.raw, plaintext, INFO, bytes(32)) for plaintext in (one, other))
    assert (first[:32] == second[:32]) == (one == other)


def test_agrees_with_the_library() -> None:
    theirs = pytest.importorskip("cryptography.hazmat.primitives.hpke")
    suite = theirs.Suite(theirs.KEM.X25519, theirs.KDF.HKDF_SHA256, theirs.AEAD.AES_128_GCM)
    private = hpke.generate()
    key, public = X25519PrivateKey.from_private_bytes(private), hpke.public_of(private)
    for length in (0, 1, 126, 384, 1304):
        plaintext = os.urandom(length)
        sealed = hpke.seal(public, plaintext, INFO, os.urandom(32))
        assert suite.decrypt(sealed, key, INFO) == plaintext
        assert hpke.opener(private, INFO)(suite.encrypt(plaintext, key.public_key(), INFO)) == plaintext


def test_any_changed_bit_is_found() -> None:
    sealed = hpke.seal(SERVER.public.raw, b"plaintext", INFO, bytes(32))
    opening = hpke.opener(PRIVATE, INFO)
    for at in range(8 * len(sealed)):  # X25519 ignores the top bit of enc, but the key depends on it
        changed = bytearray(sealed)
        changed[at // 8] ^= 1 << at % 8
        with pytest.raises(MalformedError):
            opening(bytes(changed))


@given(st.binary(max_size=200))
def test_any_bytes_are_opened_or_rejected(sealed: bytes) -> None:
    with pytest.raises(MalformedError):
        hpke.opener(PRIVATE, INFO)(sealed)


def test_point_of_low_order_is_rejected() -> None:
    for point in (0, 1, 2**255 - 20, 2**255 - 19, 2**255 - 18):
        with pytest.raises(MalformedError):
            hpke.opener(PRIVATE, INFO)(point.to_bytes(32, "little") + bytes(16))


def test_the_hybrid_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "doorward.signed.hybrid", raising=False)
    monkeypatch.delattr("doorward.signed.hybrid", raising=False)
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.hpke", None)
    monkeypatch.delattr("cryptography.hazmat.primitives.hpke", raising=False)
    with pytest.raises(HostError, match=r"need the Python package cryptography 48 or newer; upgrade it, or make"):
        generate_private_text(HYBRID)
