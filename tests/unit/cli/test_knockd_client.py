"""`knock` compared with Debian's: identical output for the same call; then the improvements."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from doorward import __version__
from doorward.cli import knockd_client
from doorward.cli.knockd_client import USAGE, main
from doorward.client.sequence import Target
from doorward.errors import UsageError
from doorward.model import Port

REAL = shutil.which("knock", path="/usr/bin:/usr/local/bin")
needs_the_real_one = pytest.mark.skipif(REAL is None, reason="not installed: knock (Debian's package knockd)")

CALLS = [
    "-v 127.0.0.1 7 8:udp 9:tcp",
    "-v ::1 7 8:udp",
    "-v localhost 7",
    "-v -4 localhost 7",
    "--verbose --ipv4 localhost 7",
    "-uv 127.0.0.1 7 8:tcp",
    "-u 127.0.0.1 7",
    "--udp 127.0.0.1 -v 7 8",
    "-v 127.0.0.1 ssh domain:udp",
    "-v 127.1 7 9:",
    "-vd5 127.0.0.1 7 8",
    "-d 5 -v 127.0.0.1 7",
    "-d abc -v 127.0.0.1 7",
    "-d 3x -v 127.0.0.1 7",
    "--delay=5 127.0.0.1 7 -v",
    "--del 5 -v 127.0.0.1 7",
    "--delay= -v 127.0.0.1 7",
    "--verb 127.0.0.1 7",
    "-v -- 127.0.0.1 7 8",
    "",
    "-h",
    "-hV",
    "--help 127.0.0.1 7",
    "127.0.0.1",
    "-v",
    "-d -5 127.0.0.1 7",
    "-d -5",
    "-d",
    "--delay",
    "-x 127.0.0.1 7",
    "-vx 127.0.0.1 7",
    "--foo 127.0.0.1 7",
    "--foo=3",
    "--ver",
    "--ve=3",
    "--=3",
    "--ip 127.0.0.1 7",
    "--udp=3",
    "--version=",
    "127.0.0.1 abc",
    "127.0.0.1 -- -5",
    "127.0.0.1 7/udp",
    "nosuch.invalid 7",
    "- 7 8",
    "-4 ::1 7",
    "-6 127.0.0.1 7:udp",
    "-46v 127.0.0.1 7",
]


def answer(argv: list[str]) -> tuple[int, str, str]:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout, done.stderr


def ours(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    status = main(["knock", *words])
    out, err = capsys.readouterr()
    return status, out, err


@needs_the_real_one
@pytest.mark.parametrize("call", CALLS)
def test_same_output_as_original(capsys: pytest.CaptureFixture[str], call: str) -> None:
    assert REAL is not None
    words = call.split()
    status = main([REAL, *words])
    assert (status, *capsys.readouterr()) == answer([REAL, *words])


@needs_the_real_one
def test_version_has_same_form(capsys: pytest.CaptureFixture[str]) -> None:
    assert REAL is not None
    status, real, _ = answer([REAL, "-V"])
    for words in (["-V"], ["--version"], ["-Vx"]):
        found = ours(capsys, *words)
        assert found[0] == status == 0
        assert found[1].startswith(real.splitlines()[0] + f" (doorward {__version__})\n")
        assert found[1].count("\n") == real.count("\n")


@pytest.mark.parametrize("form", ["{}:udp", "{}:UDP"])
def test_a_knock_arrives(receiver: socket.socket, capsys: pytest.CaptureFixture[str], form: str) -> None:
    assert ours(capsys, "127.0.0.1", form.format(receiver.getsockname()[1])) == (0, "", "")
    assert receiver.recv(9) == b"\0"


def test_udp_for_all(receiver: socket.socket, capsys: pytest.CaptureFixture[str]) -> None:
    port = str(receiver.getsockname()[1])
    assert ours(capsys, "-u", "127.0.0.1", f"{port}:tcp", port)[0] == 0
    assert [receiver.recv(9), receiver.recv(9)] == [b"\0", b"\0"]


# Here the real one sends something else than what was asked for, and says nothing.
WRONG = {
    "0": "Failed to resolve hostname '127.0.0.1' on port 0\ngetaddrinfo: Servname not supported for ai_socktype\n",
    "99999": "Failed to resolve hostname '127.0.0.1' on port 99999\n"
    "getaddrinfo: Servname not supported for ai_socktype\n",
    "": "Failed to resolve hostname '127.0.0.1' on port \ngetaddrinfo: Servname not supported for ai_socktype\n",
    "8:foo": "knock: unknown protocol in '8:foo'; write 8:tcp or 8:udp\n",
    "8:udp:9": "knock: unknown protocol in '8:udp:9'; write 8:tcp or 8:udp\n",
}


@pytest.mark.parametrize("word", WRONG)
def test_invalid_sequence_sends_nothing(capsys: pytest.CaptureFixture[str], word: str) -> None:
    assert ours(capsys, "-v", "127.0.0.1", "7", word) == (1, "", WRONG[word])


def test_send_failure_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = ours(capsys, "-v", "255.255.255.255", "7:udp")
    assert (status, out) == (1, "")
    assert err.startswith("knock: cannot knock: 255.255.255.255: Permission denied")


def test_the_next_address_is_tried(
    receiver: socket.socket, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    port = receiver.getsockname()[1]

    def two_addresses(host: str, *_: object) -> list[Target]:
        assert host == "two.example"
        return [Target(socket.AF_INET, (address, 0)) for address in ("255.255.255.255", "127.0.0.1")]

    monkeypatch.setattr(knockd_client, "resolve", two_addresses)
    assert ours(capsys, "-v", "two.example", f"{port}:udp") == (0, f"hitting udp 127.0.0.1:{port}\n", "")
    assert receiver.recv(9) == b"\0"


def test_name_rejected_by_resolver(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise UsageError("no-host", "no host name")

    monkeypatch.setattr(knockd_client, "resolve", refuse)
    message = "Failed to resolve hostname 'a' on port 7\ngetaddrinfo: Name or service not known\n"
    assert ours(capsys, "a", "7") == (1, "", message)


@pytest.mark.parametrize(
    ("words", "pause_s", "after_s"),
    [
        ([], 0.01, None),
        (["-d", "0"], 0.0, None),
        (["-d", "500"], 0.5, 0.5),
        (["-d", "99999999999"], 2147483.647, 2147483.647),
    ],
)
def test_pause_between_packets_and_after_with_delay(
    monkeypatch: pytest.MonkeyPatch, words: list[str], pause_s: float, after_s: float | None
) -> None:
    calls: list[object] = []

    def record(targets: object, sequence: tuple[Port, ...], delay_s: float, **_: object) -> None:
        calls.append((len(sequence), delay_s))

    monkeypatch.setattr(knockd_client, "knock", record)
    monkeypatch.setattr("time.sleep", calls.append)
    assert main(["knock", *words, "127.0.0.1", "7", "8"]) == 0
    assert calls == [(2, pause_s), *([after_s] if after_s else [])]


def test_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(knockd_client, "knock", interrupt)
    assert main(["knock", "127.0.0.1", "7"]) == 130


def test_link_local_address_names_interface() -> None:
    number, name = socket.if_nameindex()[0]
    target = Target(socket.AF_INET6, ("fe80::1", 0, 0, number))
    assert knockd_client._address_text(target) == f"fe80::1%{name}"


def test_imports_nothing_heavy() -> None:
    code = "import sys; import doorward.cli.knockd_client; print(*sys.modules)"
    loaded = set(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    )
    heavy = {"argparse", "getopt", "gettext", "dataclasses", "json", "tomllib", "subprocess", "doorward.client.hosts"}
    heavy |= {"ipaddress", "re", "socket", "typing"}
    assert not loaded & heavy


def test_run_as_a_module() -> None:
    source = Path(knockd_client.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-m", "doorward.cli.knockd_client", "-h"],
        cwd=source,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, USAGE)
