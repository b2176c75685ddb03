"""fwknop's packets, decoded: a vector of the real client, each field, and what is rejected."""

from __future__ import annotations

import base64
from ipaddress import IPv4Address

import pytest

from doorward.errors import MalformedError
from doorward.fwknop.cipher import Authenticator, decrypt
from doorward.fwknop.spa_packet import (
    HMACS,
    MAX_BYTES,
    MAX_PORTS,
    MIN_BYTES,
    PREFIX,
    SpaRequest,
    is_candidate,
    parse_plaintext,
    sealed_bytes,
    split_tag,
)
from doorward.model import Port, SecretBytes
from tests.support.errors import raises
from tests.support.fwknop import Keys, fields, unpadded

SHARED = Keys(
    base64.b64decode("lgEdKickgqSBh3kXkAJ2jygqBK4u/GojhFOE7s40Y/8="),
    base64.b64decode("VZsGBiR/7NS1R5EXb301MGhbQb3z9dI+IhimxhyAZjnQlk8FY3Cie7ugWxuICeE7m8IiD6adCUYm/qzuWe+ZVg=="),
)
PACKET = (  # of fwknop 2.6.10
    b"9g9Y4ZtVhTklK4qyjqBXb4GVD9pDqedDjb+296NBKXjfYb/B8A87Kx0q+kP+xAnXrVI1Vvzf5Hrdm+YUMFdEl3P/cVHoXTbV9PZBUn1BAOs1z4"
    b"vMomdHOyjmQhjX43a21t8K7h1lq2XyTjYJVUTWiP/6/RWyEd8IMNSON2Up3qqIlJR/lACbz6BHLNBx8XVCL+0Ep1l1D+cU"
)
LETTERS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
FIELDS = "1143457824664407:YWxpY2U:1795374597:3.0.0:1:MTkyLjAuMi41MCx0Y3AvMjI"


def request(text: str) -> SpaRequest:
    return parse_plaintext(decrypt(SHARED.sealed(text), SecretBytes(SHARED.key)))


def test_reads_a_packet_of_the_client() -> None:
    assert is_candidate(PACKET)
    text, tag = split_tag(PACKET, "sha256")
    assert Authenticator(SecretBytes(SHARED.hmac or b""), "sha256").verifies(text, tag)
    plain = decrypt(sealed_bytes(text), SecretBytes(SHARED.key))
    assert plain == f"{FIELDS}:8WBICtovCB9Q4H/tj0/+FQK9CunxWlWqZxFNUQeBOXg"
    found = parse_plaintext(plain)
    assert found == SpaRequest("alice", 1795374597, IPv4Address("192.0.2.50"), (Port.parse("22/tcp"),), None)
    assert SHARED.packet(SHARED.sealed(FIELDS, salt=bytes.fromhex("60f58e19b5585392"))) == PACKET


@pytest.mark.parametrize("digest", HMACS)
@pytest.mark.parametrize("key_bytes", [1, 64, 128])
def test_every_hmac(digest: str, key_bytes: int) -> None:
    own = Keys(b"k" * 32, b"h" * key_bytes, digest)
    text, tag = split_tag(own.packet(own.sealed(FIELDS)), digest)
    for key, verdict in ((own.hmac or b"", True), (b"g" * key_bytes, False)):
        assert Authenticator(SecretBytes(key), digest).verifies(text, tag) is verdict
    assert not Authenticator(SecretBytes(own.hmac or b""), digest).verifies(text[:-1], tag)
    assert not Authenticator(SecretBytes(own.hmac or b""), digest).verifies(text, tag[:-1])


@pytest.mark.parametrize(
    ("payload", "verdict"),
    [
        (b"A" * MIN_BYTES, True),
        (b"A" * MAX_BYTES, True),
        (b"A" * (MIN_BYTES - 1), False),
        (b"A" * (MAX_BYTES + 1), False),
        (b"A" * 150 + b"\n", False),
        (b"A" * 150 + b"=", False),
        (b"A" * 150 + b"-", False),
        (b"U2FsdGVkX1" + b"A" * 150, False),
    ],
)
def test_candidates(payload: bytes, verdict: bool) -> None:
    assert is_candidate(payload) is verdict


@pytest.mark.parametrize(
    ("message", "kind", "more", "source", "ports", "for_s"),
    [
        ("192.0.2.50,tcp/22,udp/53", 1, [], "192.0.2.50", ["22/tcp", "53/udp"], None),
        ("192.0.2.50,tcp/22,tcp/22", 1, [], "192.0.2.50", ["22/tcp"], None),
        ("0.0.0.0,tcp/22", 1, [], None, ["22/tcp"], None),
        ("192.0.2.50,tcp/22", 1, ["c2VydmVy"], "192.0.2.50", ["22/tcp"], None),  # with server_auth
        ("192.0.2.50,tcp/22", 3, ["77"], "192.0.2.50", ["22/tcp"], 77),
        ("192.0.2.50,tcp/22", 3, ["c2VydmVy", "77"], "192.0.2.50", ["22/tcp"], 77),
        ("192.0.2.50,tcp/22", 3, ["0"], "192.0.2.50", ["22/tcp"], None),
    ],
)
def test_fields(message: str, kind: int, more: list[str], source: str, ports: list[str], for_s: int | None) -> None:
    found = request(fields(message, *more, kind=kind, time_s=1_800_000_000))
    own = None if source is None else IPv4Address(source)
    assert found == SpaRequest("alice", 1_800_000_000, own, tuple(map(Port.parse, ports)), for_s)


@pytest.mark.parametrize(
    ("message", "kind", "more", "code"),
    [
        ("192.0.2.50,id", 0, [], "command"),
        ("192.0.2.50,tcp/22", 2, ["MTAuMC4wLjUsMjI"], "nat"),
        ("192.0.2.50,tcp/22", 6, ["MTAuMC4wLjUsMjI", "30"], "nat"),
        ("192.0.2.50,tcp/22", 7, [], "invalid-fields"),
        ("192.0.2.50,tcp/22", 3, [], "invalid-fields"),
        ("192.0.2.50,tcp/22", 3, ["soon"], "invalid-fields"),
        ("192.0.2.50,tcp/22", 1, ["a", "b"], "invalid-fields"),
        ("192.0.2.50", 1, [], "invalid-ports"),
        ("192.0.2.50,icmp/8", 1, [], "invalid-ports"),
        ("192.0.2.50,tcp/0", 1, [], "invalid-ports"),
        ("192.0.2.50,tcp/65536", 1, [], "invalid-ports"),
        ("2001:db8::1,tcp/22", 1, [], "invalid-ports"),
        ("localhost,tcp/22", 1, [], "invalid-ports"),
        ("127.0.0.1,tcp/22", 1, [], "invalid-ports"),
        ("224.0.0.1,tcp/22", 1, [], "invalid-ports"),
        ("255.255.255.255,tcp/22", 1, [], "invalid-ports"),
        ("192.0.2.50," + ",".join(f"tcp/{port}" for port in range(1, MAX_PORTS + 2)), 1, [], "invalid-ports"),
        ("\x1b[2J,tcp/22", 1, [], "invalid-fields"),
        ("", 1, [], "invalid-fields"),
    ],
)
def test_rejects_fields(message: str, kind: int, more: list[str], code: str) -> None:
    with raises(MalformedError, code):
        request(fields(message, *more, kind=kind))


@pytest.mark.parametrize("digest", ["", "AAAA", unpadded(bytes(32)), unpadded(bytes(16))])
def test_rejects_a_wrong_digest(digest: str) -> None:
    with raises(MalformedError, "wrong-digest"):
        parse_plaintext(f"{FIELDS}:{digest}")


def test_rejects_what_another_key_sealed() -> None:
    for key in (b"another", SHARED.key + b"0"):
        with raises(MalformedError, "wrong-key"):
            decrypt(SHARED.sealed(FIELDS), SecretBytes(key))


def test_rejects_other_spellings_of_the_same_bytes() -> None:
    sealed = next(
        sealed for sealed in (SHARED.sealed(FIELDS + "x" * count) for count in range(0, 48, 16)) if len(sealed) % 3 == 1
    )
    text = unpadded(sealed).encode()[len(PREFIX) :]
    assert sealed_bytes(text) == sealed
    last = LETTERS.index(text[-1])
    unused = (text[:-1] + LETTERS[last + 1 : last + 2], text + b"=", text + b"==")  # the last has four unused bits
    for other in (*unused, b"A" + text[1:]):  # of the first, four bits are not the salt's
        with raises(MalformedError, "invalid-base64"):
            sealed_bytes(other)
    for short in (sealed[:-8], sealed[:16]):
        with raises(MalformedError, "wrong-length"):
            sealed_bytes(unpadded(short).encode()[len(PREFIX) :])


def test_a_key_is_never_shown() -> None:
    key = SecretBytes(b"sesame")
    assert "sesame" not in f"{key} {key!r} {[key]}"
