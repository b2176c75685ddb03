"""`doorward knock` on the command line: exit statuses, messages and imports."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from doorward.cli.main import build_parser, main

# Each costs milliseconds or is of no use to a knock.
HEAVY = {
    "asyncio", "concurrent", "cryptography", "ctypes", "dataclasses", "difflib", "email", "encodings.idna",
    "hashlib", "http", "inspect", "json", "logging", "multiprocessing", "pathlib", "random", "shutil", "sqlite3",
    "ssl", "subprocess", "tempfile", "threading", "tomllib", "unicodedata", "urllib",
}  # fmt: skip
# A signed knock needs them; together they take longer than a sequence.
NOT_FOR_A_SEQUENCE = {"argparse", "gettext", "importlib", "ipaddress", "re", "socket", "typing"}
OURS = {
    "doorward", "doorward.cli", "doorward.cli.knock", "doorward.cli.knock_options", "doorward.cli.knocker",
    "doorward.cli.main", "doorward.cli.plain_parser", "doorward.client", "doorward.client.hosts",
    "doorward.client.sequence", "doorward.errors", "doorward.escape", "doorward.named_tuple", "doorward.port",
}  # fmt: skip


@pytest.fixture
def hosts_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the path of this test's hosts.toml, which does not exist yet."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    path = tmp_path / "doorward" / "hosts.toml"
    path.parent.mkdir()
    return path


def write_home(path: Path, *doors: str) -> None:
    path.write_text('[home]\naddress = "127.0.0.1"\n[home.doors]\n' + "\n".join(doors) + "\n")
    path.chmod(0o600)


def number_of(receiver: socket.socket) -> int:
    number: int = receiver.getsockname()[1]
    return number


@pytest.mark.parametrize("form", ["{}/udp", "{}:udp", "{}/UDP"])
def test_knock_arrives_silently(receiver: socket.socket, capsys: pytest.CaptureFixture[str], form: str) -> None:
    assert main(["knock", "127.0.0.1", form.format(number_of(receiver))]) == 0
    assert receiver.recv(9) == b"\0"
    assert capsys.readouterr() == ("", "")


def test_verbose_prints_one_line_per_packet(receiver: socket.socket, capsys: pytest.CaptureFixture[str]) -> None:
    port = number_of(receiver)
    assert main(["knock", "-v", "127.0.0.1", str(port), "--delay", "1ms", f"{port}/udp"]) == 0
    assert capsys.readouterr().out == f"1/2  {port}/tcp to 127.0.0.1\n2/2  {port}/udp to 127.0.0.1\n"


@pytest.mark.parametrize("words", [["home", "ssh"], ["home"]], ids=["named", "the only one"])
def test_a_door_of_hosts_toml(receiver: socket.socket, hosts_file: Path, words: list[str]) -> None:
    write_home(hosts_file, f'ssh = ["{number_of(receiver)}/udp"]')
    assert main(["knock", *words]) == 0
    assert receiver.recv(9) == b"\0"


def test_a_host_of_hosts_toml_with_ports(receiver: socket.socket, hosts_file: Path) -> None:
    write_home(hosts_file)
    assert main(["knock", "home", "-4", f"{number_of(receiver)}/udp"]) == 0
    assert receiver.recv(9) == b"\0"


def test_invalid_hosts_toml_does_not_block_addresses(receiver: socket.socket, hosts_file: Path) -> None:
    hosts_file.write_text("[broken")
    assert main(["knock", "127.0.0.1", f"{number_of(receiver)}/udp"]) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["127.0.0.1", "0"], "port 0 does not exist; write a number from 1 to 65535"),
        (["127.0.0.1", "7000/sctp"], "invalid port '7000/sctp'; write it as 7000/tcp or 7000/udp"),
        (["127.0.0.1", "-6", "7000"], "has no IPv6 address"),
        (["127.0.0.1", "7000", "--delay", "10"], "--delay: invalid duration '10'"),
        (["127.0.0.1", "7000", "--delay", "999999999999999d"], "--delay: 999999999999999d is too long"),
        (["127.0.0.1", "7000", "--wait", "22", "--timeout", "soon"], "--timeout: invalid duration 'soon'"),
        (["127.0.0.1", "7000", "--timeout", "3s"], "--timeout is for --wait"),
        (["127.0.0.1", "7000", "--wait", "22/udp"], "--wait: cannot wait for 22/udp"),
        (["255.255.255.255", "7000"], "cannot knock: 255.255.255.255: Network is unreachable"),
        (["home"], "which door? "),
        (["home", "sh"], "did you mean 'ssh'?"),
        (["elsewhere", "ssh"], "known hosts: home"),
        (["elsewhere"], "to knock at any other host, give ports: 7000 8000/udp 9000"),
        (["elsewhere", "7000,8000/udp"], "7000,8000/udp: separate ports and doors by spaces: 7000 8000/udp"),
        (["elsewhere:7000"], "elsewhere:7000: write the port after a space: elsewhere 7000"),
        (["192.0.2.1:7000", "8000"], "192.0.2.1:7000: write the port after a space: 192.0.2.1 7000"),
    ],
)
def test_invalid_call_exits_with_2(
    hosts_file: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    write_home(hosts_file, 'ssh = ["7000/tcp"]', 'web = ["7001/tcp"]')
    assert main(["knock", *words]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("doorward: ")
    assert message in captured.err
    assert captured.out == ""


def test_missing_hosts_toml_prints_how_to_write_one(hosts_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["knock", "home", "ssh"]) == 2
    assert f"{hosts_file} names no host" in capsys.readouterr().err


def test_wait_returns_0_when_port_answers(receiver: socket.socket, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as service:
        awaited = service.getsockname()[1]
        assert main(["knock", "127.0.0.1", f"{number_of(receiver)}/udp", "--wait", str(awaited), "-v"]) == 0
    assert capsys.readouterr().out.endswith(f"{awaited}/tcp is open\n")


def test_wait_returns_1_when_port_never_answers(receiver: socket.socket, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        awaited = closed.getsockname()[1]
        words = [f"{number_of(receiver)}/udp", "--wait", f"{awaited}/tcp", "--timeout", "1ms"]
        assert main(["knock", "127.0.0.1", *words]) == 1
    said = capsys.readouterr().err
    assert f"127.0.0.1: knocked once, but {awaited}/tcp refuses connections; check" in said


def test_help_fits_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = build_parser("knock").format_help().splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 80
    assert any("doorward knock server.example 7000 8000/udp 9000" in line for line in lines)


def test_first_packet_imports_little(receiver: socket.socket) -> None:
    program = (
        "import sys; before = set(sys.modules)\n"
        "import doorward.client.sequence as client\n"
        "send = client.send\n"
        "def first(*packet):\n"
        "    print(*sorted(set(sys.modules) - before)); return send(*packet)\n"
        "client.send = first\n"
        "from doorward.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "knock", "127.0.0.1", f"{number_of(receiver)}/udp"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert receiver.recv(9) == b"\0"
    loaded = set(done.stdout.split())
    assert loaded & (HEAVY | NOT_FOR_A_SEQUENCE) == set()
    assert {name for name in loaded if name.split(".")[0] == "doorward"} == OURS


@pytest.mark.parametrize(("option", "is_shown"), [([], True), (["-q"], False)])
def test_on_a_terminal_it_says_what_it_sent_and_how_many_knocks_it_took(
    receiver: socket.socket,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    option: list[str],
    is_shown: bool,
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    port = number_of(receiver)
    knock = ["knock", *option, "127.0.0.1", f"{port}/udp"]
    assert main(knock) == 0
    expected = f"sent {port}/udp to 127.0.0.1; the gate does not answer\n"
    assert capsys.readouterr().out == (expected if is_shown else "")
    with socket.create_server(("127.0.0.1", 0)) as service:
        awaited = service.getsockname()[1]
        assert main([*knock, "--wait", str(awaited)]) == 0
    assert capsys.readouterr().out == (f"{awaited}/tcp is open after 1 knock\n" if is_shown else "")
