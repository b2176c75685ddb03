"""`doorward knock` with a server's key: what is sent, what is printed, and invalid calls."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from ipaddress import ip_address
from pathlib import Path

import pytest

from doorward.cli.knock_options import KnockPlan
from doorward.cli.main import main
from doorward.cli.signed_options import signed_knocker
from doorward.client.hosts import KnownHost
from doorward.client.sequence import resolve
from doorward.model import Port
from doorward.signed.envelope import Decryptor
from doorward.signed.message import CLOSE, Request, parse_plaintext, signed_text, signer_hash, target_hash
from doorward.signed.server_key import X25519, generate_private_text, parse_private_key
from doorward.signed.ssh_keys import parse_public_key, verify
from doorward.signed.sshsig import expand_signature
from tests.support.signed import HAS_HYBRID
from tests.support.ssh_agent import blob_of, real_agent
from tests.support.ssh_keygen import key

SERVER = parse_private_key(generate_private_text(X25519))
KEY = str(SERVER.public)
pytestmark = pytest.mark.usefixtures("empty_ssh_directory")


@pytest.fixture
def identity(empty_ssh_directory: Path) -> Path:
    """Create a key where ssh looks for it."""
    path = empty_ssh_directory / "id_ed25519"
    shutil.copyfile(key("ed25519"), path)
    path.chmod(0o600)
    return path


def port_of(receiver: socket.socket) -> str:
    return str(receiver.getsockname()[1])


def check_signature(signature: bytes, text: bytes) -> None:
    by = parse_public_key(blob_of(key("ed25519")))
    verify(by, expand_signature(by.kind, signature), text)


def received(receiver: socket.socket) -> Request:
    opener = Decryptor(SERVER)
    packet = receiver.recv(2000)
    assert opener.is_garbage(packet) == ""
    message = parse_plaintext(opener.open(packet))
    check_signature(message.signature, signed_text(SERVER.public.raw, message.body))
    return message.request


def write_hosts(home: Path, text: str) -> None:
    path = home.parent / ".config" / "doorward" / "hosts.toml"
    path.parent.mkdir(parents=True)
    path.touch(0o600)
    path.write_text(text)


def test_signed_knock_arrives_silently(
    receiver: socket.socket, identity: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["knock", "127.0.0.1", "ssh", "--server-key", KEY, "--signed-port", port_of(receiver)]) == 0
    request = received(receiver)
    assert (request.target, request.for_s, request.asked) == (target_hash("", "ssh"), None, None)
    assert capsys.readouterr() == ("", "")


def test_every_option_is_in_the_message(receiver: socket.socket, tmp_path: Path) -> None:
    words = ["--server-key", KEY, "--signed-port", f"{port_of(receiver)}/udp", "--identity", str(key("ed25519"))]
    wishes = ["--from", "192.0.2.7", "--gate", "paris", "--for", "1h"]
    assert main(["knock", "127.0.0.1", "db", *words, *wishes]) == 0
    request = received(receiver)
    assert (request.target, request.for_s, request.asked) == (target_hash("paris", "db"), 3600, ip_address("192.0.2.7"))


def test_options_override_hosts_toml(receiver: socket.socket, identity: Path, empty_ssh_directory: Path) -> None:
    other = identity.rename(identity.with_name("other"))
    text = (
        f'[home]\naddress = "127.0.0.1"\nserver_key = "{KEY}"\nsigned_port = {port_of(receiver)}\n'
        f'identity = "{other}"\ngate = "paris"\nfrom = "auto"\nfor = "1m"\n[home.doors]\nssh = ["9/udp"]\n'
    )
    write_hosts(empty_ssh_directory, text)
    assert main(["knock", "home"]) == 0
    request = received(receiver)
    assert (request.target, request.for_s, request.asked) == (target_hash("paris", "ssh"), 60, ip_address("127.0.0.1"))
    assert main(["knock", "home", "db", "--gate", "rome", "--for", "2s"]) == 0
    request = received(receiver)
    assert (request.target, request.for_s) == (target_hash("rome", "db"), 2)


def test_sequence_option_wins_over_server_key(receiver: socket.socket, empty_ssh_directory: Path) -> None:
    door = f'[home]\naddress = "127.0.0.1"\nserver_key = "{KEY}"\n[home.doors]\nssh = ["{port_of(receiver)}/udp"]\n'
    write_hosts(empty_ssh_directory, door)
    assert main(["knock", "home", "ssh", "--sequence"]) == 0
    assert receiver.recv(9) == b"\0"
    assert main(["knock", "home", f"{port_of(receiver)}/udp"]) == 0  # ports are a sequence
    assert receiver.recv(9) == b"\0"


def test_verbose_prints_one_line_per_packet(
    receiver: socket.socket, identity: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    port = port_of(receiver)
    assert main(["knock", "-v", "127.0.0.1", "ssh", "db", "--server-key", KEY, "--signed-port", port]) == 0
    assert capsys.readouterr().out == "".join(
        f"{port}/udp to 127.0.0.1: 190 bytes for door {door!r}, signed with {identity}\n" for door in ("ssh", "db")
    )
    assert [received(receiver).target for _ in range(2)] == [target_hash("", door) for door in ("ssh", "db")]


def test_each_round_of_wait_is_a_fresh_packet(receiver: socket.socket, identity: Path) -> None:
    words = ["--server-key", KEY, "--signed-port", port_of(receiver)]
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        waiting = ["--wait", str(closed.getsockname()[1]), "--timeout", "1s"]
        assert main(["knock", "127.0.0.1", "ssh", *words, *waiting]) == 1
    first, second = received(receiver), received(receiver)
    assert first.nonce != second.nonce
    assert first.time_ms < second.time_ms


def test_rounds_of_wait_try_the_ports_in_turn(
    receiver: socket.socket, identity: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ports = ["9", port_of(receiver), "53"]
    words = ["--server-key", KEY, "--signed-port", ",".join(ports), "-v"]
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        waiting = ["--wait", str(closed.getsockname()[1]), "--timeout", "3s"]
        assert main(["knock", "127.0.0.1", "ssh", *words, *waiting]) == 1
    sent = [line.split("/")[0] for line in capsys.readouterr().out.splitlines() if " bytes for door " in line]
    assert sent == ports
    assert received(receiver).target == target_hash("", "ssh")


def test_each_address_begins_with_the_first_port(identity: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ports = (Port.parse("9/udp"), Port.parse("53/udp"))
    host = KnownHost("home", "localhost", {}, KEY, signed_ports=ports)
    knock = signed_knocker(KnockPlan(host, ("ssh",), ()), verbose=True)
    for _ in range(3):  # as `doorward proxy` does: knock at one address and connect to it, then the other
        for address in ("::1", "127.0.0.1"):
            knock(resolve(address))
    sent = [line.split("/")[0] for line in capsys.readouterr().out.splitlines()]
    assert sent == ["9", "9", "53", "53", "9", "9"]


def test_wait_returns_0_when_port_answers(
    receiver: socket.socket, identity: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as service:
        awaited = str(service.getsockname()[1])
        words = ["--server-key", KEY, "--signed-port", port_of(receiver), "--wait", awaited, "-v"]
        assert main(["knock", "127.0.0.1", "ssh", *words]) == 0
    assert capsys.readouterr().out.endswith(f"{awaited}/tcp is open\n")


def test_wait_timeout_prints_where_to_look(identity: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, socket.create_connection(full.getsockname()):
        words = ["--server-key", KEY, "--signed-port", "9", "--wait", str(full.getsockname()[1]), "--timeout", "50ms"]
        assert main(["knock", "127.0.0.1", "ssh", *words]) == 1
    said = capsys.readouterr().err
    assert "127.0.0.1: knocked once, but" in said
    assert "stays silent; check whether door 'ssh' opens this port and lets this key in, whether the gate" in said


def test_close_is_a_flag_and_dated_after_what_it_closes(
    receiver: socket.socket, identity: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["knock", "127.0.0.1", "ssh", "--server-key", KEY, "--signed-port", port_of(receiver)]
    write_hosts(identity.parent, '["127.0.0.1"]\naddress = "127.0.0.1"\nfor = "1m"\n')
    assert main(words) == main([*words, "--close"]) == 0
    opened, closed = received(receiver), received(receiver)
    assert (opened.flags, opened.for_s, closed.flags, closed.for_s) == (0, 60, CLOSE, None)
    assert opened.time_ms < closed.time_ms
    assert main([*words, "--close", "--dump"]) == 0
    lines = capsys.readouterr().out
    assert "0x01 (close)" in lines
    assert "duration" not in lines


def test_dump_shows_every_field_and_sends_nothing(
    receiver: socket.socket, identity: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["knock", "127.0.0.1", "ssh", "--server-key", KEY, "--signed-port", port_of(receiver)]
    assert main([*words, "--dump"]) == 0
    assert main(words) == 0
    received(receiver)  # the one that was sent
    receiver.setblocking(False)
    with pytest.raises(BlockingIOError):
        receiver.recv(2000)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"190 bytes to 127.0.0.1 {port_of(receiver)}/udp, not sent"
    assert [line.split("  ")[1] for line in lines[1:]] == [
        "sealed to", "version", "flags", "time", "nonce", "for", "address", "door", "gate", "target", "signed by",
        "signer", "signature",
    ]  # fmt: skip
    assert "  flags        0x00 (open)" in lines
    assert f"  target       {target_hash('', 'ssh').hex()} (hash of gate and door)" in lines
    assert f"  sealed to    server key {SERVER.public.fingerprint} (x25519)" in lines


def test_dump_as_json_suffices_to_check_another_client(identity: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--server-key", KEY, "--gate", "paris", "--for", "90s", "--from", "2001:db8::/64", "--confirm",
             "--once", "--dump", "--json"]  # fmt: skip
    assert main(["knock", "127.0.0.1", "ssh", "db", *words]) == 0
    for line, door in zip(capsys.readouterr().out.splitlines(), ("ssh", "db"), strict=True):
        fields = json.loads(line)
        assert (fields["door"], fields["for_s"], fields["address"], fields["gate"]) == (
            door,
            90,
            "2001:db8::/64",
            "paris",
        )
        assert (fields["to"], fields["port"], fields["packet_bytes"]) == ("127.0.0.1", "62201/udp", 190)
        assert fields["signed_text"] == signed_text(SERVER.public.raw, bytes.fromhex(fields["body"])).hex()
        assert fields["target"] == target_hash("paris", door).hex()
        assert fields["signer"] == signer_hash(blob_of(key("ed25519"))).hex()
        assert fields["flags"] == ["once", "confirm"]
        check_signature(bytes.fromhex(fields["signature"]), bytes.fromhex(fields["signed_text"]))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["127.0.0.1", "ssh", "--gate", "x"], "--gate is for signed knocks, and no server key is known for '127"),
        (["127.0.0.1", "7000", "--gate", "x"], "--gate is for signed knocks, and ports are a sequence; leave one"),
        (["home", "ssh", "--sequence", "--for", "1s"], "--for is for signed knocks, and --sequence asks for a seq"),
        (["127.0.0.1", "7000", "--once"], "--once is for signed knocks, and ports are a sequence; leave one"),
        (["127.0.0.1", "ssh", "--server-key", KEY, "--once", "--wait", "22"], "--wait connects to see whether the"),
        (["127.0.0.1", "ssh", "--server-key", KEY, "--once", "--close"], "--once is how a door opens, and --close"),
        (["127.0.0.1", "7000", "--dump"], "--dump is for signed knocks, and this is a sequence; add --server-key KEY"),
        (
            ["127.0.0.1", "7000", "--close"],
            "--close is for signed knocks, and this is a sequence, which cannot close a door; add --server-key KEY",
        ),
        (["127.0.0.1", "ssh", "--server-key", KEY, "--close", "--wait", "22"], "leave one out"),
        (["127.0.0.1", "ssh", "--server-key", KEY, "--close", "--for", "1m"], "leave one out"),
        (["127.0.0.1", "ssh", "--server-key", KEY, "--json"], "--json is for --dump; add --dump, or leave --json out"),
        (["127.0.0.1", "--server-key", KEY], "which door? no door of '127.0.0.1' is known here; name the one to open"),
        (["home"], "which door? "),
        (["home", "db", "--sequence"], "door 'db' of host 'home' has no port sequence; it needs a signed knock"),
        (["127.0.0.1", "ssh", "--server-key", "x"], "127.0.0.1: invalid server key: a server's key begins with x25519"),
        (["127.0.0.1", "ssh", "--server-key", KEY, "--for", "1"], "--for: invalid duration '1'; write the unit"),
        (["127.0.0.1", "ssh", "--server-key", KEY, "--from", "me"], "--from: invalid address 'me'; write e.g."),
        (["127.0.0.1", "ssh", "--server-key", KEY, "--signed-port", "22/tcp"], "--signed-port: 22/tcp is not a UDP"),
        (["127.0.0.1", "ssh", "--server-key", KEY], "no key to sign with: no ssh-agent"),
        (["127.0.0.1", "ssh", "--server-key", KEY, "--identity", "/none"], "/none: No such file or directory; check"),
        (["255.255.255.255", "ssh", "--server-key", KEY, "--identity", "KEY"], "cannot knock: 255.255.255.255: "),
    ],
)  # fmt: skip
def test_invalid_call_exits_with_2(
    empty_ssh_directory: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    write_hosts(empty_ssh_directory, f'[home]\nserver_key = "{KEY}"\n[home.doors]\nssh = ["7000/tcp"]\ndb = []\n')
    words = [str(key("ed25519")) if word == "KEY" else word for word in words]
    assert main(["knock", *words]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("doorward: ")
    assert message in captured.err
    assert captured.out == ""


def test_unlisted_door_is_reported_and_sent(
    receiver: socket.socket, identity: Path, empty_ssh_directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    host = f'[home]\naddress = "127.0.0.1"\nserver_key = "{KEY}"\nsigned_port = {port_of(receiver)}\n'
    write_hosts(empty_ssh_directory, f"{host}[home.doors]\nssh = []\n")
    assert main(["knock", "home", "sssh"]) == 0
    assert received(receiver).target == target_hash("", "sssh")
    assert "'home' lists no door 'sssh'; did you mean 'ssh'?" in capsys.readouterr().err
    assert main(["knock", "home", "postgres"]) == 0
    assert received(receiver).target == target_hash("", "postgres")
    assert "'home' lists no door 'postgres'; its doors here: ssh" in capsys.readouterr().err


# Each costs milliseconds, and a signed knock by a key of the agent needs none of it.
HEAVY = {
    "asyncio", "concurrent", "cryptography.hazmat.primitives.serialization.ssh", "dataclasses", "difflib",
    "doorward.config.diagnostics", "doorward.signed.ssh_certificates", "email", "getpass", "http", "inspect", "json",
    "logging", "multiprocessing", "pathlib", "segno", "shutil", "sqlite3", "ssl", "subprocess", "tempfile", "tomllib",
    "urllib",
}  # fmt: skip


@pytest.mark.skipif(not HAS_HYBRID, reason="cryptography 38 imports all of itself")
def test_signed_knock_imports_little(receiver: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = (
        "import sys; before = set(sys.modules)\n"
        "from doorward.cli.main import main; status = main(sys.argv[1:])\n"
        "print(*sorted(set(sys.modules) - before)); sys.exit(status)\n"
    )
    words = ["knock", "127.0.0.1", "ssh", "--server-key", KEY, "--signed-port", port_of(receiver)]
    with real_agent(tmp_path) as agent:
        agent.add(key("ed25519"))
        monkeypatch.setenv("SSH_AUTH_SOCK", str(agent.path))
        done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=True)
    received(receiver)
    assert set(done.stdout.split()) & HEAVY == set()
