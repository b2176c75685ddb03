"""Who is let in and who is not; over the examples of docs/reference/signed-knock.md, made by the real ssh-keygen."""

from __future__ import annotations

import base64
import json
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorward.signed.authorize import KnockGrant, KnockRejection, PacketAuthorizer
from doorward.signed.authorized_keys import parse
from doorward.signed.envelope import Decryptor, check_key
from doorward.signed.message import pack_body, parse_plaintext, signed_text
from doorward.signed.server_key import SUITES, PrivateKey
from doorward.signed.sshsig import signed_data
from tests.support.signed import Signer, sealed
from tests.support.vectors import VECTORS

EXAMPLES = json.loads(VECTORS.read_text())
PACKETS = pytest.mark.parametrize("example", EXAMPLES["packets"], ids=lambda example: example["name"])
SERVERS = {s["suite"]: PrivateKey(SUITES[s["suite"]], bytes.fromhex(s["private"])) for s in EXAMPLES["servers"]}
SERVER = SERVERS["x25519"]
DOORS = {"ssh": 30_000, "db": 60_000}
SOURCE, OTHER = ip_address("192.0.2.7"), ip_address("198.51.100.9")


def judge(*lines: str, suite: str = "x25519", gate: str | None = None) -> PacketAuthorizer:
    keys, faults = parse("".join(f"{line}\n" for line in lines), "authorized_keys")
    assert not faults
    return PacketAuthorizer(SERVERS[suite], keys, DOORS, gate, 60_000)


# The examples


@pytest.mark.parametrize("server", EXAMPLES["servers"], ids=lambda server: server["suite"])
def test_the_examples_of_the_servers_key(server: dict[str, str]) -> None:
    public = SERVERS[server["suite"]].public
    assert (str(public), public.fingerprint) == (server["public"], server["fingerprint"])
    assert check_key(public).hex() == server["check_key"]


@PACKETS
def test_the_examples_are_what_the_page_says(example: dict[str, Any]) -> None:
    server = SERVERS[example["suite"]]
    packet, plaintext = base64.b64decode(example["packet"]), bytes.fromhex(example["plaintext"])
    opener = Decryptor(server)
    assert opener.is_garbage(packet) == ""
    assert opener.open(packet) == plaintext
    message = parse_plaintext(plaintext)
    assert message.body.hex() == example["body"] == pack_body(message.request).hex()
    assert message.signature.hex() == example["signature"]
    text = signed_text(server.public.raw, message.body)
    assert (text.hex(), signed_data(text).hex()) == (example["text"], example["data"])


@PACKETS
def test_the_examples_are_granted_in_time_and_to_their_keys_only(example: dict[str, Any]) -> None:
    packet, now_ms = base64.b64decode(example["packet"]), example["time_ms"] + 59_000
    gate = parse_plaintext(bytes.fromhex(example["plaintext"])).request.gate or None
    judging = judge(example["authorized_keys"], suite=example["suite"], gate=gate)
    verdict = judging.authorize(packet, SOURCE.packed, now_ms)
    assert isinstance(verdict, KnockGrant)
    assert verdict.door == "ssh"
    late = judging.authorize(packet, SOURCE.packed, now_ms + 2000)
    assert isinstance(late, KnockRejection)
    assert late.reason == "clock"
    for another in (judge(Signer().line, suite=example["suite"], gate=gate), judge(suite=example["suite"], gate=gate)):
        verdict_of_another = another.authorize(packet, SOURCE.packed, now_ms)
        assert isinstance(verdict_of_another, KnockRejection)
        assert verdict_of_another.reason == "key"


# What is asked for, and what the line says

LAPTOP = Signer("laptop")


def verdict(line: str = "", *, door: str = "ssh", **fields: Any) -> KnockGrant | KnockRejection:
    request = LAPTOP.request(door, **fields)
    packet = LAPTOP.packet(SERVER, door, **{"time_ms": request.time_ms, **fields})
    return judge(f"{line} {LAPTOP.line}".strip()).authorize(packet, SOURCE.packed, request.time_ms)


def refusal(line: str = "", **fields: Any) -> tuple[str, str]:
    found = verdict(line, **fields)
    assert isinstance(found, KnockRejection)
    return found.reason, found.words


def test_granted_address_and_time() -> None:
    for found, place, for_ms in [
        (verdict(), SOURCE, 30_000),
        (verdict(asked=SOURCE), SOURCE, 30_000),
        (verdict(for_s=10), SOURCE, 10_000),
        (verdict(for_s=100), SOURCE, 30_000),
        (verdict('for-max="1h"', for_s=100), SOURCE, 100_000),
        (verdict('for-max="5s"'), SOURCE, 5000),
        (verdict('addresses="198.51.100.0/24"', asked=OTHER), OTHER, 30_000),
    ]:
        assert isinstance(found, KnockGrant)
        assert (found.place, found.for_ms, found.key) == (place, for_ms, "laptop")


def test_rejections_have_a_reason() -> None:
    assert refusal(door="sesame") == ("door", "key laptop requested unknown door 'sesame'")
    assert refusal(asked=OTHER) == ("forbidden", "key laptop may not request an opening for 198.51.100.9")
    assert refusal('doors="db"') == ("forbidden", "key laptop may not open the door ssh")
    assert refusal('from="198.51.100.0/24"') == ("forbidden", "key laptop may not knock from 192.0.2.7")


def test_named_gate_accepts_packets_with_its_name() -> None:
    request = LAPTOP.request(gate="edge")
    packet = LAPTOP.packet(SERVER, gate="edge", time_ms=request.time_ms)
    assert isinstance(judge(LAPTOP.line, gate="edge").authorize(packet, SOURCE.packed, request.time_ms), KnockGrant)
    unnamed = judge(LAPTOP.line).authorize(packet, SOURCE.packed, request.time_ms)
    assert isinstance(unnamed, KnockRejection)
    assert unnamed.words == "the packet is for the gate 'edge', and this one has no name"
    other = judge(LAPTOP.line, gate="other").authorize(packet, SOURCE.packed, request.time_ms)
    assert isinstance(other, KnockRejection)
    assert other.words == "the packet is for the gate 'edge', and this one is 'other'"
    nameless = LAPTOP.packet(SERVER, time_ms=request.time_ms)
    refused = judge(LAPTOP.line, gate="other").authorize(nameless, SOURCE.packed, request.time_ms)
    assert isinstance(refused, KnockRejection)
    assert refused.words == "the packet names no gate, and this one is 'other'"


@pytest.mark.parametrize(
    ("off_ms", "says"),
    [
        (-(4 * 3600 + 2 * 60) * 1000, "4h 2m behind"),
        (-61_000, "1m 1s behind"),
        (120_000, "2m ahead"),
        (3 * 86_400_000, "3d ahead"),
        (3 * 86_400_000 + 3_600_000, "3d 1h ahead"),
    ],
)
def test_clock_offset_text(off_ms: int, says: str) -> None:
    request = LAPTOP.request()
    packet = LAPTOP.packet(SERVER, time_ms=request.time_ms + off_ms)
    found = judge(LAPTOP.line).authorize(packet, SOURCE.packed, request.time_ms)
    assert isinstance(found, KnockRejection)
    assert found.words == f"the packet from key laptop is {says}; correct the client's clock"


@given(off_ms=st.integers(-200_000, 200_000) | st.sampled_from([-60_001, -60_000, 60_000, 60_001]))
def test_packets_outside_the_window_are_rejected(off_ms: int) -> None:
    """The replay cache relies on it: nothing dated later than the window ahead was ever accepted."""
    signer, now_ms = Signer(), 1_800_000_000_000
    packet = signer.packet(SERVER, time_ms=now_ms + off_ms)
    verdict = judge(signer.line).authorize(packet, SOURCE.packed, now_ms)
    assert isinstance(verdict, KnockGrant) == (abs(off_ms) <= 60_000)


def test_signature_by_another_key_or_over_other_text_is_rejected() -> None:
    request = LAPTOP.request()
    body, changed = pack_body(request), pack_body(request._replace(door="db"))
    for signature in (Signer().sign(SERVER, body), LAPTOP.sign(SERVER, changed), b"", b"junk"):
        found = judge(LAPTOP.line).authorize(sealed(SERVER, body, signature), SOURCE.packed, request.time_ms)
        assert isinstance(found, KnockRejection)
        assert found.reason == "signature"


def test_packet_resealed_from_another_server_is_rejected() -> None:
    """A malicious server reseals a client's signed body for this server."""
    other = PrivateKey(SERVER.suite, bytes(32 - 1) + b"\7")
    request = LAPTOP.request()
    body = pack_body(request)
    found = judge(LAPTOP.line).authorize(sealed(SERVER, body, LAPTOP.sign(other, body)), SOURCE.packed, request.time_ms)
    assert isinstance(found, KnockRejection)
    assert found.reason == "signature"


def test_same_body_has_the_same_replay_id() -> None:
    request = LAPTOP.request()
    body = pack_body(request)
    signature = LAPTOP.sign(SERVER, body)
    packets = [sealed(SERVER, body, signature) for _ in range(2)]
    found = [judge(LAPTOP.line).authorize(packet, SOURCE.packed, request.time_ms) for packet in packets]
    assert packets[0] != packets[1]
    assert found[0] == found[1]
