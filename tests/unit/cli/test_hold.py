"""`doorward hold`: what is sent while a command runs and when it ends, its exit status, and invalid calls."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from ipaddress import ip_address
from itertools import pairwise
from pathlib import Path

import pytest

from doorward.cli import hold
from doorward.cli.main import build_parser, parse
from doorward.client.hold import SLEPT_S
from doorward.errors import UsageError
from doorward.signed.envelope import CHECK_BYTES, Decryptor
from doorward.signed.message import CLOSE, CONFIRM, Request, parse_plaintext, target_hash
from doorward.signed.reply import SALT_BYTES, Confirmation, reply_secret, seal_reply
from doorward.signed.server_key import X25519, generate_private_text, parse_private_key
from tests.support.authenticator import Authenticator
from tests.support.daemon import LATE_S
from tests.support.errors import raises
from tests.support.ssh_agent import agent_that, token_agent
from tests.support.ssh_keygen import key

SERVER = parse_private_key(generate_private_text(X25519))
KEY = str(SERVER.public)
pytestmark = pytest.mark.usefixtures("empty_ssh_directory")
SAYS_READY = "echo ready; "


@pytest.fixture
def options(receiver: socket.socket, empty_ssh_directory: Path) -> list[str]:
    """Name a server whose packets arrive at the receiver, and have a key where ssh looks for it."""
    path = empty_ssh_directory / "id_ed25519"
    shutil.copyfile(key("ed25519"), path)
    path.chmod(0o600)
    return ["127.0.0.1", "ssh", "--server-key", KEY, "--signed-port", str(receiver.getsockname()[1])]


def received(receiver: socket.socket) -> Request:
    opener = Decryptor(SERVER)
    packet = receiver.recv(2000)
    while opener.is_garbage(packet) == "length":  # of another test, which had this port before
        packet = receiver.recv(2000)
    assert opener.is_garbage(packet) == ""
    return parse_plaintext(opener.open(packet)).request


def confirm(receiver: socket.socket, left_s: int) -> Request:
    """Receive a knock, and answer as a gate that opens for this many seconds."""
    packet, client = receiver.recvfrom(2000)
    plaintext = Decryptor(SERVER).open(packet)
    reply = Confirmation(ip_address("127.0.0.1"), left_s, round(time.time() * 1000))
    receiver.sendto(seal_reply(reply_secret(packet[:CHECK_BYTES], plaintext), reply, os.urandom(SALT_BYTES)), client)
    return parse_plaintext(plaintext).request


def sockets_of(process: subprocess.Popen[str]) -> int:
    return sum(str(path.readlink()).startswith("socket:") for path in Path(f"/proc/{process.pid}/fd").iterdir())


def until_close(receiver: socket.socket) -> list[Request]:
    """Receive up to the packet that closes; all of them open but that."""
    requests = [received(receiver)]
    while not requests[-1].flags & CLOSE:
        requests.append(received(receiver))
    return requests


@contextmanager
def holding(words: list[str], **popen: object) -> Iterator[subprocess.Popen[str]]:
    """Run it until the first line that it, or its command, prints."""
    command = [sys.executable, "-m", "doorward", "hold", *words]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, start_new_session=True, **{**pipes, **popen}) as process:  # type: ignore[call-overload]
        try:
            assert process.stdout.readline()
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("command", "status"),
    [
        ("exit 0", 0),
        ("exit 7", 7),
        ("kill -TERM $$", 143),
        ("kill -KILL $$", 137),
        ("kill -INT $$", 130),
    ],
)
def test_the_exit_status_is_the_commands(
    receiver: socket.socket, options: list[str], command: str, status: int
) -> None:
    with holding([*options, "--", "sh", "-c", f"{SAYS_READY}{command}"]) as process:
        assert process.wait(20) == status
        assert process.stderr is not None
        assert process.stderr.read() == ""
    opened, *_, closed = until_close(receiver)
    assert (opened.flags, opened.for_s, opened.target) == (0, 60, target_hash("", "ssh"))
    assert (closed.flags, closed.for_s, closed.target) == (CLOSE, None, target_hash("", "ssh"))
    assert opened.time_ms < closed.time_ms


@pytest.mark.parametrize(
    ("words", "status", "reason"),
    [(["/no/such/program"], 127, "No such file"), (["/etc/passwd"], 126, "Permission denied")],
)
def test_a_command_that_cannot_be_started(
    receiver: socket.socket, options: list[str], words: list[str], status: int, reason: str
) -> None:
    command = [sys.executable, "-m", "doorward", "hold", *options, "--", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr.startswith(f"doorward: {words[0]}: {reason}")
    assert len(until_close(receiver)) == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_without_a_command_a_signal_ends_it(
    receiver: socket.socket, options: list[str], number: signal.Signals
) -> None:
    with holding(options) as process:
        process.send_signal(number)
        assert process.wait(20) == 0
    assert len(until_close(receiver)) == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_passed_on_to_the_command(
    receiver: socket.socket, options: list[str], number: signal.Signals
) -> None:
    """It may need the door until its end."""
    program = "import signal, sys\nprint('ready', flush=True)\ntry:\n    signal.pause()\nfinally:\n    sys.exit(9)"
    handler = f"import signal\nsignal.signal({int(number)}, lambda *_: exit(9))\n"
    with holding([*options, "--", sys.executable, "-c", handler + program]) as process:
        process.send_signal(number)
        assert process.wait(20) == 9
    assert until_close(receiver)[-1].flags == CLOSE


def test_ctrl_c_in_a_terminal_reaches_the_command_once(receiver: socket.socket, options: list[str]) -> None:
    program = (
        "import signal, time\nsignal.signal(signal.SIGINT, lambda *_: print('interrupted', flush=True))\n"
        "print('ready', flush=True)\nfor _ in range(15): time.sleep(0.1)\nexit(3)"
    )
    handle, inner = os.openpty()
    with os.fdopen(inner, "rb") as terminal, os.fdopen(handle, "r+b", buffering=0) as keyboard:
        words = ["setsid", "--ctty", "--wait", sys.executable, "-m", "doorward", "hold", *options]
        command = [*words, "--", sys.executable, "-c", program]
        with subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal) as process:
            shown = b""
            while b"ready" not in shown:
                shown += keyboard.read(1000)
            keyboard.write(b"\x03")
            assert process.wait(20) == 3
        assert (shown + keyboard.read(1000)).count(b"interrupted") == 1
    assert until_close(receiver)[-1].flags == CLOSE


def test_an_ignored_signal_stays_ignored(receiver: socket.socket, options: list[str]) -> None:
    def ignore() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    with holding(options, preexec_fn=ignore) as process:
        process.send_signal(signal.SIGHUP)
        time.sleep(0.2)
        assert process.poll() is None
        process.terminate()
        assert process.wait(20) == 0
    assert until_close(receiver)[-1].flags == CLOSE


def test_it_renews_before_the_end(receiver: socket.socket, options: list[str]) -> None:
    with holding([*options, "--for", "3s"]):
        times_ms = [received(receiver).time_ms for _ in range(5)]
    pauses = [later - sooner for sooner, later in pairwise(times_ms)]
    assert all(900 < pause < 1000 + LATE_S * 1000 for pause in pauses), pauses


def test_the_seconds_that_a_gate_confirms_set_the_next_knock(
    receiver: socket.socket, options: list[str], empty_ssh_directory: Path
) -> None:
    """hosts.toml asks for the confirmation; the close needs none."""
    hosts = empty_ssh_directory.parent / ".config/doorward/hosts.toml"
    hosts.parent.mkdir(parents=True)
    port = receiver.getsockname()[1]
    hosts.write_text(
        f'[home]\naddress = "127.0.0.1"\nserver_key = "{KEY}"\nsigned_port = "{port}/udp"\nconfirm = true\n'
    )
    with holding(["home", "ssh"]) as process:
        requests = [confirm(receiver, left_s=6) for _ in range(3)]
        process.terminate()
        assert process.wait(20) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""
    assert {request.flags for request in requests} == {CONFIRM}
    assert until_close(receiver)[-1].flags == CLOSE
    pauses = [later.time_ms - sooner.time_ms for sooner, later in pairwise(requests)]
    assert all(1900 < pause < 2000 + LATE_S * 1000 for pause in pauses), pauses


def test_without_a_confirmation_it_prints_once_what_to_check(receiver: socket.socket, options: list[str]) -> None:
    with holding([*options, "--confirm", "--for", "3s"]) as process:
        for _ in range(3):
            received(receiver)
        sockets = sockets_of(process)
        for _ in range(3):
            received(receiver)
        assert sockets_of(process) <= sockets + 1  # of the knock before, which is about to be closed
        process.terminate()
        assert process.wait(20) == 0
        assert process.stderr is not None
        warning = process.stderr.read()
    assert warning.startswith("doorward: warning: 127.0.0.1: no confirmation within 1 s; check, the likeliest first:\n")
    assert warning.count("no confirmation") == 1
    assert warning.count("doorward:   1. ") == 1


def test_it_knocks_at_once_after_being_stopped(receiver: socket.socket, options: list[str]) -> None:
    with holding(options) as process:
        process.send_signal(signal.SIGSTOP)
        time.sleep(SLEPT_S + 1.2)
        receiver.setblocking(False)
        with suppress(BlockingIOError):
            while receiver.recv(2000):  # what was sent before
                pass
        receiver.settimeout(10)
        began_ms = time.time() * 1000
        process.send_signal(signal.SIGCONT)
        while (sent_ms := received(receiver).time_ms) < began_ms:  # signed before it was stopped
            pass
        assert sent_ms - began_ms < LATE_S * 1000


def test_each_port_gets_a_packet(receiver: socket.socket, options: list[str]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        other.settimeout(10)
        options[-1] += f",{other.getsockname()[1]}"
        with holding([*options, "-v"]) as process:
            assert received(receiver).nonce != received(other).nonce
            process.terminate()
            process.wait(20)
        assert until_close(receiver)[-1].flags == until_close(other)[-1].flags == CLOSE


def test_what_follows_the_dashes_is_the_commands() -> None:
    args = parse("hold", ["home", "-4", "ssh", "--for", "1h", "--", "psql", "-h", "db", "--", "-6"])
    assert (args.host, args.words, args.for_s) == ("home", ["ssh"], "1h")
    assert args.command == ["psql", "-h", "db", "--", "-6"]
    assert parse("hold", ["home"]).command == []
    assert parse("knock", ["home", "--", "ssh"]).words == ["ssh"]


def test_help_does_not_offer_once() -> None:
    assert "--once" in build_parser("knock").format_help()
    assert "--once" not in build_parser("hold").format_help()


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["127.0.0.1", "7000"], "hold-needs-signed"),
        (["127.0.0.1", "7000", "--server-key", KEY], "option-needs-signed"),
        (["127.0.0.1", "ssh", "--server-key", KEY, "--for", "2s"], "hold-too-short"),
        (["127.0.0.1", "ssh", "--server-key", KEY, "--once"], "hold-with-once"),
    ],
)
@pytest.mark.usefixtures("options")
def test_invalid_calls(words: list[str], code: str) -> None:
    with raises(UsageError, code):
        hold.run(parse("hold", words))


def test_a_key_that_is_touched(
    receiver: socket.socket, options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked for a long time, and never to close."""
    token = Authenticator()
    (tmp_path / "token.pub").write_text(f"{token.line}\n")
    options += ["--identity", str(tmp_path / "token.pub"), "--signed-port", f"{receiver.getsockname()[1]},9"]
    with agent_that(tmp_path, token_agent(token)) as path:
        monkeypatch.setenv("SSH_AUTH_SOCK", str(path))
        with raises(UsageError, "touch-needs-for"):
            hold.run(parse("hold", options))
        with holding([*options, "--for", "8h", "--", "sh", "-c", f"{SAYS_READY}exit 7"]) as process:
            assert process.wait(20) == 7
    assert received(receiver).for_s == 8 * 3600
    assert token.counter == 1
