"""Who is let in and who is not; over the examples of docs/reference/signed-knock.md, and over fresh packets."""

from __future__ import annotations

import base64
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorward.signed.authorize import FleetScope, KnockRejection, PacketAuthorizer, ValidKnock, Verdict
from doorward.signed.authorized_keys import parse
from doorward.signed.envelope import Decryptor, check, check_key, keyed_check
from doorward.signed.message import (
    CERTIFICATE,
    CLOSE,
    CONFIRM,
    ONCE,
    certified_hash,
    message_number,
    pack_body,
    parse_plaintext,
    signed_text,
    signer_hash,
    target_hash,
)
from doorward.signed.reply import reply_secret
from doorward.signed.server_key import HYBRID, X25519, PrivateKey
from doorward.signed.ssh_keys import parse_public_key
from doorward.signed.sshsig import expand_signature, signed_data
from tests.support import ssh_keygen
from tests.support.signed import SUITES_HERE, Signer, sealed
from tests.support.vectors import HYBRID_KINDS, KINDS, SERVER, TIME_MS, VECTORS, fresh

PACKETS = pytest.mark.parametrize("example", VECTORS["packets"], ids=lambda example: example["name"])
DOORS = {"ssh": 30_000, "db": 60_000}
SOURCE, OTHER = ip_address("192.0.2.7"), ip_address("198.51.100.9")


def allowing(
    *lines: str, server: PrivateKey = SERVER, gate: str | None = None, sharing: FleetScope | None = None
) -> PacketAuthorizer:
    keys, faults = parse("".join(f"{line}\n" for line in lines), "authorized_keys")
    assert not faults
    return PacketAuthorizer(server, keys, DOORS, gate, 60_000, sharing)


def valid(found: Verdict, *, is_close: bool = False) -> ValidKnock:
    assert isinstance(found, ValidKnock)
    assert found.is_close == is_close
    return found


def rejection(verdict: Verdict) -> KnockRejection:
    assert isinstance(verdict, KnockRejection)
    return verdict


# The examples of the page


def server_of(example: dict[str, str]) -> PrivateKey:
    if "server_private" not in example:
        return SERVER
    if HYBRID not in SUITES_HERE:
        pytest.skip("cryptography is too old")
    return PrivateKey(HYBRID, bytes.fromhex(example["server_private"]))


def line_of(example: dict[str, str]) -> str:
    if "authority" in example:
        return f'cert-authority,principals="*" {example["authority"]}'
    blob = bytes.fromhex(example["key_blob"])
    return f"{parse_public_key(blob).kind} {base64.b64encode(blob).decode()} laptop"


def test_the_examples_of_the_servers_key() -> None:
    example = VECTORS["server"]
    assert str(SERVER.public) == example["word"]
    assert check_key(SERVER.public).hex() == example["check_key"]
    assert SERVER.public.raw.hex() == example["public"]


@PACKETS
def test_the_examples_are_what_the_page_says(example: dict[str, str]) -> None:
    server = server_of(example)
    packet, plaintext = bytes.fromhex(example["packet"]), bytes.fromhex(example["plaintext"])
    opener = Decryptor(server)
    assert opener.is_garbage(packet) == ""
    assert opener.open(packet) == plaintext
    text = signed_text(server.public.raw, parse_plaintext(plaintext).body)
    assert text.hex() == example.get("signed_text", text.hex())
    assert signed_data(text).hex() == example.get("sshsig_data", signed_data(text).hex())


@PACKETS
def test_the_examples_are_accepted_in_time_and_from_their_keys_only(example: dict[str, str]) -> None:
    server, packet = server_of(example), bytes.fromhex(example["packet"])
    body = bytes.fromhex(example["body"])
    request = parse_plaintext(bytes.fromhex(example["plaintext"])).request
    line = f'addresses="203.0.113.0/24" {line_of(example)}' if request.asked else line_of(example)
    line = line.replace('" cert', '",cert')
    now_ms = request.time_ms + 59_000
    authorizer = allowing(line, server=server, gate="home")
    verdict = authorizer.authorize(packet, SOURCE.packed, now_ms)
    verdict = valid(verdict, is_close=bool(request.flags & CLOSE))
    assert (verdict.door, verdict.time_ms, verdict.once) == ("ssh", request.time_ms, bool(request.flags & ONCE))
    assert (verdict.signer == request.signer) == (not request.flags & CERTIFICATE)  # it changes with a renewal
    assert verdict.id.hex() == example["number"] == message_number(body).hex()
    wanted = example["reply_secret"] if request.flags & CONFIRM else None
    assert (verdict.reply and verdict.reply.hex()) == wanted
    assert rejection(authorizer.authorize(packet, SOURCE.packed, now_ms + 2000)).reason == "clock"
    for another in (
        allowing(Signer().line, server=server, gate="home"),
        allowing(server=server, gate="home"),
    ):
        assert rejection(another.authorize(packet, SOURCE.packed, now_ms)).reason == "key"


@pytest.mark.parametrize(
    ("name", "reason", "words"),
    [
        ("check", "check", ""),
        ("sealed", "sealed", "not sealed to this server's key"),
        ("low_order_enc", "sealed", "not sealed to this server's key"),
        ("signature", "signature", "bad signature by key laptop: the signature is by another key, or over other data"),
        ("unknown_flag", "sealed", "unknown flags 0x"),
    ],
)
def test_the_examples_that_are_rejected(name: str, reason: str, words: str) -> None:
    packet = bytes.fromhex(VECTORS["refused_packets"][name])
    authorizer = allowing(*dict.fromkeys(map(line_of, VECTORS["packets"][:1])), gate="home")
    verdict = rejection(authorizer.authorize(packet, SOURCE.packed, 1_796_000_000_123))
    assert (verdict.reason, verdict.words[: len(words)]) == (reason, words)


# Fresh packets of every kind


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_key_opens_and_closes(kind: str) -> None:
    opening = fresh(kind)
    valid(allowing(opening.line).authorize(opening.packet, SOURCE.packed, TIME_MS))
    closing = fresh(kind, flags=CLOSE)
    valid(allowing(closing.line).authorize(closing.packet, SOURCE.packed, TIME_MS), is_close=True)


@pytest.mark.skipif(HYBRID not in SUITES_HERE, reason="cryptography is too old")
@pytest.mark.parametrize("kind", HYBRID_KINDS)
def test_the_hybrid_takes_every_kind_that_fits(kind: str) -> None:
    server = PrivateKey(HYBRID, bytes(range(96)))
    example = fresh(kind, server)
    assert len(example.packet) == 1372
    verdict = allowing(example.line, server=server).authorize(example.packet, SOURCE.packed, TIME_MS)
    verdict = valid(verdict)


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa256", "ecdsa384", "certificate"])
def test_any_changed_bit_of_a_plaintext_is_rejected(kind: str) -> None:
    example = fresh(kind)
    authorizer, opener = allowing(example.line), Decryptor(SERVER)
    plaintext = bytearray(opener.open(example.packet))
    for at in range(8 * len(plaintext)):
        plaintext[at // 8] ^= 1 << at % 8
        authorizer._decryptor.open = lambda packet: bytes(plaintext)  # type: ignore[method-assign]
        assert isinstance(authorizer.authorize(example.packet, SOURCE.packed, TIME_MS), KnockRejection), at
        plaintext[at // 8] ^= 1 << at % 8
    authorizer._decryptor.open = lambda packet: bytes(plaintext)  # type: ignore[method-assign]
    valid(authorizer.authorize(example.packet, SOURCE.packed, TIME_MS))


def test_any_changed_bit_and_any_other_length_of_a_packet_is_garbage() -> None:
    example = fresh("ed25519")
    authorizer = allowing(example.line)
    for at in range(8 * len(example.packet)):
        changed = bytearray(example.packet)
        changed[at // 8] ^= 1 << at % 8
        assert rejection(authorizer.authorize(bytes(changed), SOURCE.packed, TIME_MS)).reason == "check"
    for length in range(1500):
        packet = (example.packet + bytes(1500))[:length]
        if length != len(example.packet):
            reason = "check" if length in X25519.lengths else "length"
            assert rejection(authorizer.authorize(packet, SOURCE.packed, TIME_MS)).reason == reason


def test_any_changed_bit_behind_a_valid_check_is_rejected() -> None:
    example = fresh("ecdsa256")
    authorizer, keyed = allowing(example.line), keyed_check(SERVER.public)
    for at in range(8 * 16, 8 * len(example.packet)):
        changed = bytearray(example.packet)
        changed[at // 8] ^= 1 << at % 8
        changed[:16] = check(keyed, bytes(changed[16:]))
        assert rejection(authorizer.authorize(bytes(changed), SOURCE.packed, TIME_MS)).reason == "sealed"


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa256", "ecdsa384"])
def test_a_signature_in_another_form_or_packet_is_rejected(kind: str) -> None:
    example = fresh(kind)
    authorizer = allowing(example.line)
    message = parse_plaintext(Decryptor(SERVER).open(example.packet))
    signature = message.signature
    if message.is_raw:
        blob = base64.b64decode(example.line.split()[1])
        signature = expand_signature(parse_public_key(blob).kind, signature)
    for length in {448, 1368} - {len(example.packet)}:
        packet = sealed(SERVER, message.body, signature, length)
        verdict = rejection(authorizer.authorize(packet, SOURCE.packed, TIME_MS))
        assert (verdict.reason, "belongs" in verdict.words) == ("sealed", True)
    if message.is_raw:
        for length in (448, 1368):
            packet = sealed(SERVER, message.body, message.signature, length)
            assert isinstance(authorizer.authorize(packet, SOURCE.packed, TIME_MS), KnockRejection)
    else:
        packet = sealed(SERVER, message.body, bytes(64))
        assert (
            "a raw signature, which a key of kind"
            in rejection(authorizer.authorize(packet, SOURCE.packed, TIME_MS)).words
        )


def test_certificate_is_compared_with_the_signer_before_it_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    example, other = (
        fresh("certificate"),
        ssh_keygen.certify(
            ssh_keygen.key("ed25519", 1),
            ssh_keygen.public_line(ssh_keygen.key("ed25519")),
            "-n",
            "alice",
            name="another",
        ),
    )
    message = parse_plaintext(Decryptor(SERVER).open(example.packet))
    packet = sealed(SERVER, message.body, message.signature, 1368, other)
    monkeypatch.setattr("doorward.signed.authorized_keys.parse_certificate", None)
    verdict = rejection(allowing(example.line).authorize(packet, SOURCE.packed, TIME_MS))
    assert (verdict.reason, verdict.words) == ("sealed", "a certificate that is not the signer")


# What is asked for, and what the line says

LAPTOP = Signer("laptop")
NOW_MS = 1_800_000_000_000


def verdict(line: str = "", *, door: str = "ssh", **fields: Any) -> Verdict:
    packet = LAPTOP.packet(SERVER, door, **{"time_ms": NOW_MS, **fields})
    return allowing(f"{line} {LAPTOP.line}".strip()).authorize(packet, SOURCE.packed, NOW_MS)


def refusal(line: str = "", **fields: Any) -> tuple[str, str]:
    found = verdict(line, **fields)
    assert isinstance(found, KnockRejection)
    return found.reason, found.words


def test_granted_address_and_time() -> None:
    for found, source, for_ms in [
        (verdict(), SOURCE, 30_000),
        (verdict(asked=SOURCE), SOURCE, 30_000),
        (verdict(for_s=10), SOURCE, 10_000),
        (verdict(for_s=100), SOURCE, 30_000),
        (verdict('for-max="1h"', for_s=100), SOURCE, 100_000),
        (verdict('for-max="5s"'), SOURCE, 5000),
        (verdict('addresses="198.51.100.0/24"', asked=OTHER), OTHER, 30_000),
    ]:
        found = valid(found)
        assert (found.source, found.for_ms, found.key) == (source, for_ms, "laptop")


def test_rejections_have_a_reason() -> None:
    unknown = "requested an unknown door, or a door of another gate"
    assert refusal(door="sesame") == ("door", f"key laptop {unknown}")
    assert refusal(door="sesame", signer=bytes(12)) == ("door", f"an unknown key {unknown}")
    assert refusal(asked=OTHER) == ("forbidden", "key laptop may not request an opening for 198.51.100.9")
    assert refusal('doors="db"') == ("forbidden", "key laptop may not open the door ssh")
    assert refusal('from="198.51.100.0/24"') == ("forbidden", "key laptop may not knock from 192.0.2.7")


def test_once_is_requested_by_its_flag() -> None:
    assert [valid(verdict(flags=flags)).once for flags in (0, ONCE, CONFIRM)] == [False, True, False]


def test_closing_is_authorized_as_opening_is() -> None:
    found = verdict('addresses="198.51.100.0/24",for-max="5s"', flags=CLOSE, asked=OTHER)
    found = valid(found, is_close=True)
    assert (found.door, found.source, found.key) == ("ssh", OTHER, "laptop")
    assert (found.signer, found.time_ms, found.reply) == (signer_hash(LAPTOP.key.blob), NOW_MS, None)
    assert refusal('doors="db"', flags=CLOSE)[0] == "forbidden"
    assert refusal(flags=CLOSE, asked=ip_network("198.51.100.0/24"))[0] == "forbidden"
    assert refusal('from="198.51.100.0/24"', flags=CLOSE)[0] == "forbidden"


def test_renewed_certificate_is_the_same_signer() -> None:
    first, renewed, other = (certified_hash(b"authority", key_id) for key_id in ("ada", "ada", "bob"))
    assert first == renewed != other
    assert certified_hash(b"another", "ada") != first


def test_confirmation_is_prepared_only_if_it_is_wanted() -> None:
    for flags in (CONFIRM, CONFIRM | CLOSE):
        packet = LAPTOP.packet(SERVER, flags=flags, time_ms=NOW_MS)
        found = allowing(LAPTOP.line).authorize(packet, SOURCE.packed, NOW_MS)
        assert not isinstance(found, KnockRejection)
        assert found.reply == reply_secret(packet[:16], Decryptor(SERVER).open(packet))
    without = verdict()
    without = valid(without)
    assert without.reply is None


def test_named_gate_accepts_packets_with_its_name() -> None:
    def refused(packet_for: str, gate: str | None) -> tuple[str, str]:
        packet = LAPTOP.packet(SERVER, gate=packet_for, time_ms=NOW_MS)
        found = rejection(allowing(LAPTOP.line, gate=gate).authorize(packet, SOURCE.packed, NOW_MS))
        return found.reason, found.words

    packet = LAPTOP.packet(SERVER, gate="edge", time_ms=NOW_MS)
    valid(allowing(LAPTOP.line, gate="edge").authorize(packet, SOURCE.packed, NOW_MS))
    for gate in (None, "other"):
        assert refused("edge", gate) == ("door", "key laptop requested an unknown door, or a door of another gate")
    assert refused("", "other") == ("gate", "the packet names no gate, and this one is 'other'")


def test_shared_doors_accept_packets_for_the_fleet() -> None:
    authorizer = allowing(LAPTOP.line, gate="edge", sharing=FleetScope("offices", frozenset({"ssh"})))

    def found(door: str, gate: str) -> Verdict:
        return authorizer.authorize(LAPTOP.packet(SERVER, door, gate=gate, time_ms=NOW_MS), SOURCE.packed, NOW_MS)

    for door, gate, is_shared in (("ssh", "offices", True), ("ssh", "edge", False), ("db", "edge", False)):
        granted = found(door, gate)
        granted = valid(granted)
        assert (granted.door, granted.is_shared) == (door, is_shared)
    what = "the packet is for the fleet 'offices', with which this gate does not share the door"
    assert found("db", "offices") == KnockRejection("gate", what, "db")


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
    found = allowing(LAPTOP.line).authorize(packet, SOURCE.packed, request.time_ms)
    assert isinstance(found, KnockRejection)
    assert found.words == f"the packet from key laptop is {says}; correct the client's clock"


@given(off_ms=st.integers(-200_000, 200_000) | st.sampled_from([-60_001, -60_000, 60_000, 60_001]))
def test_packets_outside_the_window_are_rejected(off_ms: int) -> None:
    """The replay cache relies on it: nothing dated later than the window ahead was ever accepted."""
    signer, now_ms = Signer(), 1_800_000_000_000
    packet = signer.packet(SERVER, time_ms=now_ms + off_ms)
    verdict = allowing(signer.line).authorize(packet, SOURCE.packed, now_ms)
    assert isinstance(verdict, ValidKnock) == (abs(off_ms) <= 60_000)


def test_signature_by_another_key_or_over_other_text_is_rejected() -> None:
    request = LAPTOP.request()
    body, changed = pack_body(request), pack_body(request._replace(target=target_hash("", "db")))
    for signature in (Signer().sign(SERVER, body), LAPTOP.sign(SERVER, changed), b"", b"junk"):
        found = allowing(LAPTOP.line).authorize(sealed(SERVER, body, signature), SOURCE.packed, request.time_ms)
        assert isinstance(found, KnockRejection)
        assert found.reason == "signature"


def test_packet_resealed_from_another_server_is_rejected() -> None:
    """A malicious server reseals a client's signed body for this server."""
    other = PrivateKey(X25519, bytes(32 - 1) + b"\7")
    request = LAPTOP.request()
    body = pack_body(request)
    found = allowing(LAPTOP.line).authorize(
        sealed(SERVER, body, LAPTOP.sign(other, body)), SOURCE.packed, request.time_ms
    )
    assert isinstance(found, KnockRejection)
    assert found.reason == "signature"


def test_same_body_has_the_same_replay_id() -> None:
    request = LAPTOP.request()
    body = pack_body(request)
    signature = LAPTOP.sign(SERVER, body)
    packets = [sealed(SERVER, body, signature) for _ in range(2)]
    found = [allowing(LAPTOP.line).authorize(packet, SOURCE.packed, request.time_ms) for packet in packets]
    assert packets[0] != packets[1]
    assert found[0] == found[1]
