"""The JavaScript in Node: doorward.mjs makes the vectors and what the server accepts; qr.mjs makes right QR codes."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import threading
from ipaddress import IPv4Address, ip_network
from pathlib import Path
from typing import Any

import pytest
import segno
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from doorward.model import Source
from doorward.signed import authorized_keys
from doorward.signed.authorize import PacketAuthorizer, ValidKnock
from doorward.signed.envelope import CHECK_BYTES, seal
from doorward.signed.message import CONFIRM, Request, pack_body, pack_source, signed_text, signer_hash, target_hash
from doorward.signed.reply import Confirmation, ReplySecret, open_reply, reply_secret, seal_reply
from doorward.signed.ssh_wire import string
from doorward.signed.sshsig import signed_data
from doorward.signed.stun import ice_password
from tests.conftest import unavailable
from tests.support.effort import EFFORT
from tests.support.strategies import plain_addresses
from tests.support.vectors import SERVER, TIME_MS, VECTORS

RAW = [each for each in VECTORS["packets"] if len(each["packet"]) == 2 * 190]
WAIT_S = 60.0  # for Node, on a busy machine


@pytest.fixture(autouse=True)
def needs_node() -> None:
    if shutil.which("node") is None:
        unavailable("not installed: nodejs")


def in_node(*calls: tuple[str, dict[str, Any]]) -> list[Any]:
    """The results of functions of knock.mjs."""
    process = subprocess.run(
        ["node", "--no-warnings", Path(__file__).with_name("knock.mjs")],
        input=json.dumps(calls),
        capture_output=True,
        text=True,
        timeout=WAIT_S,
    )
    assert process.returncode == 0, process.stderr
    results: list[Any] = json.loads(process.stdout)
    assert len(results) == len(calls)
    return results


def key_argument(secret: ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey) -> dict[str, str]:
    pkcs8 = secret.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()).hex()
    if isinstance(secret, ed25519.Ed25519PrivateKey):
        return {"pkcs8": pkcs8, "raw": secret.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex()}
    raw = secret.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint).hex()
    return {"pkcs8": pkcs8, "raw": raw, "curve": "P-256"}


def test_packets_and_secrets_are_those_of_the_vectors() -> None:
    calls = []
    for example in VECTORS["packets"][:-1]:  # the last is of suite 2
        key = VECTORS["server"]["public"]
        calls.append(
            (
                "packet",
                {"ephemeral": example["ephemeral_private"], "server": key, "plaintext": example["plaintext"]},
            )
        )
        calls.append(("secret", {"packet": example["packet"], "plaintext": example["plaintext"]}))
    results = in_node(*calls)
    for example, packet, secret in zip(VECTORS["packets"], results[::2], results[1::2], strict=False):
        assert packet == example["packet"]
        assert secret["secret"] == example["reply_secret"]
        if example["name"] == VECTORS["stun"]["packet"]:
            assert secret["password"] == VECTORS["stun"]["ice_pwd"]


def test_confirmations_of_the_vectors_are_opened() -> None:
    secrets = {example["name"]: example["reply_secret"] for example in VECTORS["packets"]}
    calls = [("open", {"secret": secrets[each["to"]], "datagram": each["reply"]}) for each in VECTORS["replies"]]
    for example, found in zip(VECTORS["replies"], in_node(*calls), strict=True):
        expected = open_reply(ReplySecret(bytes.fromhex(secrets[example["to"]])), bytes.fromhex(example["reply"]))
        assert found == as_javascript(expected)


def as_javascript(confirmation: Confirmation) -> dict[str, Any]:
    version, bits, address = pack_source(confirmation.source)
    return {
        "isOpen": confirmation.left_s is not None,
        "secondsLeft": confirmation.left_s or 0,
        "timeMs": confirmation.time_ms,
        "ipVersion": version,
        "prefix": bits,
        "address": address[: 4 if version == 4 else 16].hex(),
    }


def asked_argument(asked: Source) -> dict[str, Any]:
    version, bits, address = pack_source(asked)
    return {"ipVersion": version, "prefix": bits, "address": address[: 4 if version == 4 else 16].hex()}


names = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)
requests = st.lists(
    st.tuples(
        st.just("") | names,
        names,
        st.sampled_from([0, 1, 2, 4, 5, 6]),
        st.integers(0, (1 << 48) - 1),
        st.binary(min_size=8, max_size=8),
        st.binary(min_size=32, max_size=32),
        st.integers(0, (1 << 32) - 1),
        st.none() | plain_addresses | st.just(ip_network("203.0.113.0/24")),
    ),
    min_size=20,
    max_size=20,
)


@settings(max_examples=2 * EFFORT)
@given(requests, st.binary(min_size=32, max_size=32))
def test_any_request_gives_the_bytes_of_the_python_client(rows: list[Any], raw: bytes) -> None:
    secret = ed25519.Ed25519PrivateKey.from_private_bytes(raw)
    blob = string(b"ssh-ed25519") + string(secret.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))
    calls, expected = [], []
    for gate, door, flags, time_ms, nonce, random, seconds, asked in rows:
        request = {"gate": gate, "door": door, "flags": flags, "timeMs": time_ms, "seconds": seconds}
        request |= {"nonce": nonce.hex(), "random": random.hex()}
        if asked is not None:
            request["asked"] = asked_argument(asked)
        calls.append(("knock", {"server": str(SERVER.public), "key": key_argument(secret), "request": request}))
        fields = Request(time_ms, nonce, target_hash(gate, door), signer_hash(blob), seconds, asked, flags)
        body = pack_body(fields)
        plaintext = body + secret.sign(signed_data(signed_text(SERVER.public.raw, body)))
        packet = seal(SERVER.public, plaintext, random)
        knock_secret = reply_secret(packet[:CHECK_BYTES], plaintext)
        expected.append((packet.hex(), body.hex(), knock_secret.hex(), ice_password(knock_secret).decode()))
    found = [(each["packet"], each["body"], each["secret"], each["password"]) for each in in_node(*calls)]
    assert found == expected


@pytest.mark.parametrize("kind", ["fresh", "nistp256"])
def test_server_accepts_a_knock(kind: str) -> None:
    key = {} if kind == "fresh" else key_argument(ec.generate_private_key(ec.SECP256R1()))
    request = {"door": "ssh", "timeMs": TIME_MS}
    (made,) = in_node(("knock", {"server": str(SERVER.public), "key": key, "request": request}))
    keys, faults = authorized_keys.parse(f"{made['line']}\n", "authorized_keys")
    assert faults == []
    assert [line.name for line in keys.lines] == ["a phone"]
    authorizer = PacketAuthorizer(SERVER, keys, {"ssh": 30_000}, None, 60_000)
    verdict = authorizer.authorize(bytes.fromhex(made["packet"]), bytes([192, 0, 2, 9]), TIME_MS)
    assert isinstance(verdict, ValidKnock)
    assert (verdict.door, verdict.for_ms, verdict.key) == ("ssh", 30_000, "a phone")


@pytest.mark.parametrize("answered", [True, False])
def test_raw_packet_and_its_confirmation(answered: bool) -> None:
    confirmation = Confirmation(IPv4Address("203.0.113.9"), 30, TIME_MS)

    def answer(gate: socket.socket) -> None:
        packet, sender = gate.recvfrom(2000)
        plaintext = SERVER.open(packet[CHECK_BYTES:])
        assert plaintext[1] == CONFIRM
        gate.sendto(bytes(80), sender)  # which the client ignores
        if answered:
            gate.sendto(seal_reply(reply_secret(packet[:CHECK_BYTES], plaintext), confirmation, bytes(16)), sender)

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as gate:
        gate.bind(("127.0.0.1", 0))
        gate.settimeout(WAIT_S)
        thread = threading.Thread(target=answer, args=(gate,))
        thread.start()
        where = {"host": "127.0.0.1", "port": gate.getsockname()[1], "waitMs": 30_000 if answered else 100}
        (result,) = in_node(("send", {"server": str(SERVER.public), "door": "ssh", **where}))
        thread.join()
    assert result["reply"] == (as_javascript(confirmation) if answered else None)


@pytest.mark.parametrize("length", [17, 32, 53, 78, 106, 134, 154, 192, 230, 271])
def test_qr_codes_are_those_of_another_encoder(length: int) -> None:
    """The texts fill their codes: segno puts other padding behind shorter ones, which no reader looks at."""
    text = "ssh-ed25519 ü ".ljust(length - 1, "A")
    results = in_node(*(("qr", {"text": text, "mask": mask}) for mask in range(8)))
    for mask, modules in enumerate(results):
        code = segno.make_qr(text, error="l", mask=mask, mode="byte", encoding="utf-8", boost_error=False)
        assert modules == [list(row) for row in code.matrix]
