"""Signed knocks as the server reads them, sent over loopback."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from doorward.client.identity import find_signer
from doorward.client.request_options import AutomaticAddress
from doorward.client.sequence import Target, UnreachableError, first_per_family, targets_of_version
from doorward.client.signed import (
    KnockRequest,
    SentPacket,
    build_request,
    check_fits,
    compose,
    max_signature_bytes,
    now_ms,
    seal_packet,
    send,
)
from doorward.client.signers import Signer, signature_bytes
from doorward.errors import HostError, UsageError
from doorward.model import Port, Protocol, Source
from doorward.signed.envelope import Decryptor
from doorward.signed.message import Request, SignedMessage, parse_plaintext, signed_text, signer_hash, target_hash
from doorward.signed.server_key import HYBRID, X25519, PrivateKey, Suite
from doorward.signed.ssh_keys import parse_public_key, verify
from doorward.signed.ssh_wire import string
from doorward.signed.sshsig import expand_signature
from tests.support.authenticator import Authenticator
from tests.support.errors import raises
from tests.support.signed import SUITES_HERE
from tests.support.ssh_agent import blob_of
from tests.support.ssh_keygen import KINDS, key, ssh_keygen
from tests.support.strategies import plain_addresses

SERVERS = {suite.name: PrivateKey(suite, bytes(range(suite.private_bytes))) for suite in SUITES_HERE}
hybrid = pytest.mark.skipif(HYBRID not in SUITES_HERE, reason="cryptography is too old")
SERVER = SERVERS["x25519"]
NONCE = bytes(range(8))
OWN = "192.0.2.1"


def to(server: PrivateKey, door: str = "ssh", gate: str | None = None, **wishes: object) -> KnockRequest:
    return build_request(str(server.public), door, gate, **wishes)  # type: ignore[arg-type]


def opened(server: PrivateKey, packet: bytes) -> SignedMessage:
    """Read a packet as the server does."""
    opener = Decryptor(server)
    assert opener.is_garbage(packet) == ""
    return parse_plaintext(opener.open(packet))


def of_token(token: Authenticator) -> Signer:
    return Signer(token.blob, "token", token.sign)


def check_signature(server: PrivateKey, signer: Signer, read: SignedMessage) -> None:
    key = parse_public_key(signer.blob)
    signature = expand_signature(key.kind, read.signature) if read.is_raw else read.signature
    verify(key, signature, signed_text(server.public.raw, read.body))


@pytest.mark.parametrize("kind", KINDS)
def test_server_accepts_the_composed_packet(kind: str) -> None:
    written = to(SERVER, "db", "paris", for_s=90, asked=ip_network("203.0.113.0/24"))
    signer = find_signer(str(key(kind)), None, 1000)
    message = compose(written, signer, OWN, 1_700_000_000_123, NONCE)
    packet = seal_packet(written, message)
    read = opened(SERVER, packet)
    assert read.request == message.request
    assert read.request == Request(
        1_700_000_000_123,
        NONCE,
        target_hash("paris", "db"),
        signer_hash(blob_of(key(kind))),
        90,
        ip_network("203.0.113.0/24"),
    )
    check_signature(SERVER, signer, read)
    lengths = {"ed25519": 190, "ecdsa256": 190, "rsa3072": 1368}
    assert len(packet) == message.length == lengths.get(kind, 448)


@pytest.mark.parametrize("suite", SUITES_HERE, ids=lambda suite: suite.name)
@pytest.mark.parametrize("kind", ["ed25519-sk", "ecdsa-sk"])
def test_a_security_key_fits_in_either_suite(suite: Suite, kind: str) -> None:
    server = SERVERS[suite.name]
    written, signer = to(server, "ssh", "paris"), of_token(Authenticator(kind))
    read = opened(server, seal_packet(written, compose(written, signer, OWN, now_ms(), NONCE)))
    check_signature(server, signer, read)


def test_a_certificate_goes_in_whole(tmp_path: Path) -> None:
    path = tmp_path / "id"
    ssh_keygen("-q", "-t", "ed25519", "-N", "", "-f", str(path))
    ssh_keygen("-q", "-s", str(key("ed25519")), "-I", "me", "-n", "me", f"{path}.pub")
    signer = find_signer(str(path), f"{path}-cert.pub", 1000)
    written = to(SERVER)
    packet = seal_packet(written, compose(written, signer, OWN, 0, NONCE))
    read = opened(SERVER, packet)
    assert len(packet) == 1368
    assert read.certificate == signer.certificate
    assert read.request.signer == signer_hash(read.certificate)
    check_signature(SERVER, signer, read)
    if HYBRID in SUITES_HERE:
        with pytest.raises(UsageError, match=r"holds 220; omit --certificate, or use one"):
            compose(to(SERVERS[HYBRID.name]), signer, OWN, 0, NONCE)


def never(_: bytes) -> bytes:
    raise AssertionError("nobody is to be asked for a signature that does not fit")


@hybrid
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("rsa2048", "sign with an ed25519 key (`ssh-keygen -t ed25519`), or make the server's key with"),
        ("ecdsa521", "and a packet for mlkem768-x25519 holds 220; sign with an ed25519 key"),
    ],
)
def test_message_that_does_not_fit_has_a_remedy(kind: str, message: str) -> None:
    signer = find_signer(str(key(kind)), None, 1000)._replace(sign=never)
    with pytest.raises(UsageError) as raised:
        check_fits(to(SERVERS[HYBRID.name]), signer)
    assert message in str(raised.value)


def test_an_rsa_key_may_be_too_long(tmp_path: Path) -> None:
    path = tmp_path / "id"
    public = b"\0\0\0\7ssh-rsa\0\0\0\3\1\0\1" + (1280).to_bytes(4) + b"\x80" + bytes(1279)  # 10,240 bits
    path.write_bytes(public)
    with raises(UsageError, "message-too-long"):
        check_fits(to(SERVER), Signer(public, "long", never))


@given(
    st.sampled_from(list(SERVERS)),
    st.sampled_from(["ed25519", "ecdsa256", "ecdsa384", "ecdsa521", "rsa2048"]),
    st.text("abcXYZ09_-", min_size=1, max_size=64),
    st.text("abcXYZ09_-", max_size=64),
    st.integers(1, (1 << 32) - 1) | st.none(),
    plain_addresses | st.none(),
    st.integers(0, (1 << 48) - 1),
    st.binary(min_size=8, max_size=8),
)
@settings(max_examples=60)
def test_every_request_round_trips_or_is_rejected(
    suite: str, kind: str, door: str, gate: str, for_s: int | None, asked: Source | None, time_ms: int, nonce: bytes
) -> None:
    server = SERVERS[suite]
    written = to(server, door, gate, for_s=for_s, asked=asked)
    signer = find_signer(str(key(kind)), None, 1000)
    fits = signature_bytes(signer.blob) <= max_signature_bytes(written.key)
    try:
        message = compose(written, signer, OWN, time_ms, nonce)
    except UsageError:
        assert not fits
        return
    assert fits
    read = opened(server, seal_packet(written, message))
    assert read.request == Request(time_ms, nonce, target_hash(gate, door), signer_hash(signer.blob), for_s, asked)


@pytest.mark.parametrize(
    ("server_key", "door", "gate", "message"),
    [
        ("x25519:AAAA", "ssh", None, "invalid server key: a server's key of 3 bytes; x25519 has 32; copy the line"),
        ("no key", "ssh", None, "invalid server key: a server's key begins with x25519:… or mlkem768-x25519:…; copy"),
        (str(SERVER.public), "a door", None, "invalid door name 'a door'; use at most 64 letters, digits, - and _"),
        (str(SERVER.public), "ssh", "SHA256:x", "the gate SHA256:x does not match the server key SHA256:"),
    ],
)
def test_invalid_request_is_rejected(server_key: str, door: str, gate: str | None, message: str) -> None:
    with pytest.raises(UsageError) as raised:
        build_request(server_key, door, gate)
    assert message in str(raised.value)


def test_gate_may_be_named_by_its_keys_fingerprint() -> None:
    assert to(SERVER, gate=SERVER.public.fingerprint).gate == ""


LOOPBACK = {
    4: (Target(socket.AF_INET, ("127.0.0.1", 0)), "127.0.0.1"),
    6: (Target(socket.AF_INET6, ("::1", 0, 0, 0)), "::1"),
}
NOWHERE = Target(socket.AF_INET, ("255.255.255.255", 0))


@contextmanager
def receivers() -> Iterator[tuple[Port, dict[int, socket.socket]]]:
    """Sockets at one port of both loopback addresses."""
    with ExitStack() as held:
        first = held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        first.bind(("127.0.0.1", 0))
        number = first.getsockname()[1]
        second = held.enter_context(socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))
        second.bind(("::1", number))
        for each in (first, second):
            each.settimeout(10)
        yield Port(Protocol.UDP, number), {4: first, 6: second}


def test_each_target_gets_its_own_packet() -> None:
    signer = find_signer(str(key("ed25519")), None, 1000)
    heard: list[SentPacket] = []
    before_ms = now_ms()
    with receivers() as (port, sockets):
        targets = [target for target, _ in LOOPBACK.values()]
        assert send(to(SERVER), signer, targets, port, report=heard.append) == targets
        read = {version: opened(SERVER, each.recv(2000)) for version, each in sockets.items()}
    assert read[4].request.nonce != read[6].request.nonce
    assert [sent.message.request for sent in heard] == [message.request for message in read.values()]
    for message in read.values():
        assert message.request.asked is None
        assert before_ms <= message.request.time_ms <= now_ms() + 1  # each is dated later than the one before


def test_source_address_is_the_routes() -> None:
    signer = find_signer(str(key("ed25519")), None, 1000)
    with receivers() as (port, sockets):
        send(to(SERVER, asked=AutomaticAddress()), signer, [target for target, _ in LOOPBACK.values()], port)
        for version, (_, own) in LOOPBACK.items():
            assert opened(SERVER, sockets[version].recv(2000)).request.asked == ip_address(own)


def test_unreachable_target_is_skipped_without_signing() -> None:
    signed: list[bytes] = []
    whole = find_signer(str(key("ed25519")), None, 1000)
    signer = whole._replace(sign=lambda text: signed.append(text) or whole.sign(text))  # type: ignore[func-returns-value]
    with receivers() as (port, sockets):
        assert send(to(SERVER), signer, [NOWHERE, LOOPBACK[4][0]], port) == [LOOPBACK[4][0]]
        opened(SERVER, sockets[4].recv(2000))
    assert len(signed) == 1
    with raises(UnreachableError, "unreachable"):
        send(to(SERVER), signer, [NOWHERE, NOWHERE])
    assert len(signed) == 1


def test_time_is_taken_after_the_passphrase() -> None:
    asked_at_ms: list[int] = []

    def unlock() -> None:
        began_ms = now_ms()
        while now_ms() == began_ms:  # a person types
            pass
        asked_at_ms.append(now_ms())

    signer = find_signer(str(key("ed25519")), None, 1000)._replace(unlock=unlock)
    with receivers() as (port, sockets):
        send(to(SERVER), signer, [LOOPBACK[4][0]], port)
        assert opened(SERVER, sockets[4].recv(2000)).request.time_ms >= asked_at_ms[0]


def test_late_touch_is_reported_and_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    signer = find_signer(str(key("ed25519")), None, 1000)
    with receivers() as (port, sockets):
        times_ms = iter((1_000_000, 1_061_000))
        with monkeypatch.context() as patched:
            patched.setattr("doorward.client.signed.now_ms", lambda: next(times_ms))
            patched.setattr("doorward.client.signed._last_date_ms", 0)  # of earlier tests
            with raises(HostError, "signed-too-late"):
                send(to(SERVER), signer, [LOOPBACK[4][0]], port)
        send(to(SERVER), signer, [LOOPBACK[4][0]], port)
        assert opened(SERVER, sockets[4].recv(2000)).request.time_ms > 1_061_000  # the first that comes


@hybrid
def test_no_prompt_for_a_message_that_does_not_fit() -> None:
    signer = find_signer(str(key("rsa3072")), None, 1000)._replace(sign=never, unlock=lambda: never(b""))
    with pytest.raises(UsageError, match="sign with an ed25519 key"):
        send(to(SERVERS[HYBRID.name]), signer, [LOOPBACK[4][0]])


def test_dry_run_sends_nothing() -> None:
    signer = find_signer(str(key("ed25519")), None, 1000)
    with receivers() as (port, sockets):
        heard: list[SentPacket] = []
        send(to(SERVER), signer, [LOOPBACK[4][0]], port, report=heard.append, really=False)
        send(to(SERVER), signer, [LOOPBACK[4][0]], port)
        read = opened(SERVER, sockets[4].recv(2000))
    assert len(heard) == 1
    assert read.request.nonce != heard[0].message.request.nonce


def test_targets_by_family() -> None:
    four, six = LOOPBACK[4][0], LOOPBACK[6][0]
    assert first_per_family([six, six, four, NOWHERE]) == [six, four]
    assert first_per_family([NOWHERE, four]) == [NOWHERE]
    assert first_per_family([four, six, NOWHERE]) == [four, six]
    assert targets_of_version([six, four, NOWHERE], 4) == [four, NOWHERE]
    assert targets_of_version([four], 6) == [four]


@hybrid
def test_the_hybrid_has_one_length() -> None:
    message = compose(to(SERVERS[HYBRID.name]), find_signer(str(key("ed25519")), None, 1000), OWN, 0, NONCE)
    assert (message.length,) == HYBRID.lengths == (1372,)
    assert X25519.lengths == (190, 448, 1368)


def test_address_of_the_route_is_never_ipv4_in_the_form_of_ipv6() -> None:
    written, signer = to(SERVER, asked=AutomaticAddress()), find_signer(str(key("ed25519")), None, 1000)
    message = compose(written, signer, "::ffff:192.0.2.1", 0, NONCE)
    assert message.request.asked == ip_address("192.0.2.1")


@pytest.mark.parametrize("signature", [b"", b"junk", bytes(83), string(b"ssh-ed25519") + string(bytes(63))])
def test_agent_that_returns_another_signature_is_reported(signature: bytes) -> None:
    signer = find_signer(str(key("ed25519")), None, 1000)._replace(sign=lambda _: signature)
    with pytest.raises(HostError, match="use another agent or key"):
        compose(to(SERVER), signer, OWN, 0, NONCE)
