"""`doorward init` with options, with answers on a terminal, and run again."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import textwrap
import tomllib
from ipaddress import ip_interface
from pathlib import Path

import pytest

from doorward.cli import init
from doorward.cli.main import main
from doorward.client.link_uri import parse_link
from doorward.config.files import read
from doorward.config.schema import Configuration, Mode
from doorward.doctor.host import LocalAddress
from doorward.init.install import first_keys
from doorward.init.survey import Service, key_files, survey_host
from doorward.model import Port
from tests.support.processes import running
from tests.support.signed import Signer

ADDRESS = ("--address", "server.example", "--name", "web1")


class Called:
    """A directory in which init is run repeatedly."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys = folder, capsys
        self.path = folder / "etc/doorward.toml"
        self.keys = folder / "keys"
        self.keys.write_text(f"{Signer('laptop').line}\n")

    def init(self, *words: str, status: int = 0) -> str:
        assert main(["init", "-c", str(self.path), *words]) == status
        printed = self.capsys.readouterr()
        return printed.err if status else printed.out

    def configuration(self) -> Configuration:
        return read(self.path)

    def check(self, level: str = "warning") -> str:
        """Return the warnings (or notes) of `doorward check`, which must find the file good."""
        assert main(["check", "-v", "-c", str(self.path)]) == 0
        return "".join(line for line in self.capsys.readouterr().err.splitlines(True) if f": {level}: " in line)


@pytest.fixture
def called(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Called:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SUDO_UID", "")
    return Called(tmp_path, capsys)


def link_in(printed: str) -> str:
    found = re.search(r"doorward add '?(doorward://[^ ']+)'? --name web1(?: --ssh)?\n", printed)
    assert found, printed
    return found[1]


@pytest.mark.parametrize("mode", ["guard", "stealth"])
def test_yes_asks_nothing(called: Called, mode: str) -> None:
    words = ("--yes", "--mode", mode, "--door", "ssh=22", "--door", "db=5432/tcp", *ADDRESS)
    printed = called.init(*words, "--authorized-keys", str(called.keys))
    found = called.configuration()
    assert found.gate.mode == mode
    assert [(door.name, door.opens) for door in found.doors] == [
        ("ssh", (Port.parse("22/tcp"),)),
        ("db", (Port.parse("5432/tcp"),)),
    ]
    assert [door.knock for door in found.doors] == [(), ()]  # a key alone opens them
    assert "sequence" not in called.path.read_text() + printed
    assert "on each client (not secret: " in printed
    assert called.check() == ""
    link = parse_link(link_in(printed))
    assert (link.host, link.doors) == ("server.example", (("ssh", ()), ("db", ())))
    assert link.gate == found.gate.name == "web1"
    table = tomllib.loads(textwrap.dedent(printed.partition("hosts.toml:\n\n")[2].partition("\n\nnext:")[0]))
    assert table["web1"]["address"] == "server.example"
    assert table["web1"]["server_key"] == link.key is not None
    assert table["web1"]["gate"] == "web1"
    assert "doorward knock web1 ssh --wait 22  " in printed
    assert f"doorward run --trial 5m -c {called.path}  " in printed
    assert f"doorward doctor -c {called.path}  " in printed


@pytest.mark.parametrize("words", [(), ("--mode", "stealth"), ("--sequence",), ("--no-signed",)])
def test_check_has_nothing_to_say_of_what_init_writes(called: Called, words: tuple[str, ...]) -> None:
    called.init("--yes", "--door", "ssh=22", *words, *ADDRESS, "--authorized-keys", str(called.keys))
    assert main(["check", "-c", str(called.path)]) == 0
    assert called.capsys.readouterr().err == ""


@pytest.mark.parametrize("way", ["--sequence", "--no-signed"])
def test_a_second_run_knows_the_name_and_the_address(called: Called, way: str) -> None:
    called.init("--yes", "--door", "ssh=22", way, *ADDRESS, "--authorized-keys", str(called.keys))
    again = called.init("--yes")
    assert parse_link(link_in(again)).host == ADDRESS[1]


def test_a_sequence_on_request(called: Called) -> None:
    words = ("--yes", "--door", "ssh=22", "--door", "db=5432/tcp", "--sequence", *ADDRESS)
    printed = called.init(*words, "--authorized-keys", str(called.keys))
    found = called.configuration()
    assert found.signed is not None
    assert [len(door.knock) for door in found.doors] == [4, 4]
    assert "on each client (keep it secret: " in printed
    assert called.check() == ""
    link = parse_link(link_in(printed))
    assert link.doors == tuple((door.name, door.knock) for door in found.doors)
    assert link.key is not None


def next_steps(called: Called, monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[list[str], str]:
    """Run init with the package installed; return the three commands and the last line."""
    monkeypatch.setenv("CONFIGURATION_DIRECTORY", str(called.folder))
    monkeypatch.setattr(init, "_UNITS", [called.keys])
    assert main(["init", "--yes", *words, *ADDRESS, "--authorized-keys", str(called.keys)]) == 0
    lines = called.capsys.readouterr().out.partition("\nnext:\n\n")[2].splitlines()
    return [line.partition("  # ")[0].strip() for line in lines if line.startswith("  ")], lines[-1]


@pytest.mark.parametrize(
    ("words", "last", "verify"),
    [
        (("--door", "ssh=22"), "ssh web1", "web1 ssh --port 22 --guard"),
        (("--door", "ssh=2222"), "ssh -p 2222 web1", "web1 ssh --port 2222 --guard"),
        (("--door", "in=22"), "ssh web1", "web1 in --port 22 --guard"),
        (("--door", "db=5432"), "doorward knock web1 db --wait 5432", "web1 db --port 5432 --guard"),
        (("--door", "vpn=51820/udp"), "doorward knock web1 vpn", "web1 vpn --guard"),
        (
            ("--door", "ssh=22", "--mode", "stealth", "--public", "80,443,444,53/udp"),
            "ssh web1",
            "web1 ssh --port 22 --expect 80,443-444",
        ),
    ],
)
def test_next_steps_with_package(
    called: Called, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], last: str, verify: str
) -> None:
    commands, end = next_steps(called, monkeypatch, *words)
    assert commands == ["doorward doctor", "systemctl enable --now doorward-gate doorward", last]
    seen = end.partition(": ")[2].removeprefix("doorward verify ")
    assert seen.partition(" --expect")[0] == verify.partition(" --expect")[0]
    if "stealth" in words:  # in guard the rest is what listens on the tests' machine
        assert seen == verify


def test_observe_prints_no_verify_call(called: Called, monkeypatch: pytest.MonkeyPatch) -> None:
    _, end = next_steps(called, monkeypatch, "--door", "ssh=22", "--mode", "observe")
    assert "verify" not in end


def test_second_run_changes_nothing_and_prints_the_same(called: Called) -> None:
    words = ("--yes", "--door", "ssh=22", *ADDRESS, "--authorized-keys", str(called.keys))
    first = called.init(*words)
    files = {path: path.read_bytes() for path in called.path.parent.iterdir()}
    assert {path.name for path in files} == {"doorward.toml", "server.key", "authorized_keys"}
    again = called.init(*words)
    assert {path: path.read_bytes() for path in called.path.parent.iterdir()} == files
    assert again.startswith(f"{called.path} already exists and is left unchanged\n--door: for a new file only;")
    assert link_in(again) == link_in(first)
    assert again[again.index("\nnext:") :] == first[first.index("\nnext:") :]


def test_missing_files_are_recreated(called: Called) -> None:
    called.init("--yes", "--door", "ssh=22", *ADDRESS, "--authorized-keys", str(called.keys))
    (called.path.parent / "authorized_keys").unlink()
    printed = called.init("--authorized-keys", str(called.keys))
    assert f"wrote {called.path.parent / 'authorized_keys'}\n" in printed
    assert called.check() == ""


def test_two_calls_choose_different_sequences(called: Called, tmp_path: Path) -> None:
    words = ["init", "--yes", "--door", "ssh=22", "--no-signed", *ADDRESS, "-c"]
    knocks = set()
    for number in range(3):
        path = tmp_path / str(number) / "doorward.toml"
        assert main([*words, str(path)]) == 0
        knocks.add(read(path).doors[0].knock)
    assert len(knocks) == 3


def test_sequences_alone(called: Called) -> None:
    printed = called.init("--yes", "--door", "ssh=22", "--no-signed", *ADDRESS)
    assert called.configuration().signed is None
    assert [path.name for path in called.path.parent.iterdir()] == ["doorward.toml"]
    assert parse_link(link_in(printed)).key is None
    assert called.check() == ""


def test_signed_knocks_without_keys(called: Called) -> None:
    printed = called.init("--yes", "--door", "ssh=22", *ADDRESS, "--authorized-keys", "none")
    who = called.path.parent / "authorized_keys"
    assert f"no key may send signed knocks yet: add public keys to {who}, and run this again\n" in printed
    assert parse_link(link_in(printed)).key is None  # the client uses the sequence
    assert "on each client (keep it secret: " in printed
    assert called.check() == ""
    who.write_text(called.keys.read_text())
    assert parse_link(link_in(called.init(*ADDRESS))).key is not None


def test_operators_own_keys_are_used(called: Called) -> None:
    own = called.folder / "home/.ssh/authorized_keys"
    own.parent.mkdir(parents=True)
    own.write_text(f"ssh-dss AAAA old\n{called.keys.read_text()}")
    printed = called.init("--yes", "--door", "ssh=22", *ADDRESS)
    found = first_keys(key_files())  # on a developer's machine those of who logged in
    assert found is not None
    assert (called.path.parent / "authorized_keys").read_text() == found.text
    if found.path == own:
        assert f"left out: {own}:1: ssh-dss keys are too weak" in printed
    assert called.check() == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--door", "ssh"), "invalid door 'ssh'; expected NAME=PORTS"),
        (("--door", "ssh=22", "--address", "a b"), "invalid host 'a b'"),
        (("--door", "ssh=22", "--mode", "stealth", "--public", "22"), "22/tcp cannot be public: a door opens it"),
        (("--door", "ssh=22", "--mode", "stealth", "--public", "x"), "invalid port 'x'"),
        (("--door", "ssh=22", "--public", "80"), "--public is for mode stealth, and mode guard leaves ports"),
        (("--door", "ssh=22", "--name", "a b"), "--name: 'a b' means something else to ssh"),
        (("--door", "ssh=22", "--authorized-keys", "/none"), "/none: no such file"),
        (("--door", "ssh=22", "--authorized-keys", "/dev/null"), "/dev/null: "),
    ],
)
def test_invalid_options_fail_before_writing(called: Called, words: tuple[str, ...], message: str) -> None:
    assert message in called.init("--yes", *words, status=2)
    assert not called.path.parent.exists()


def test_invalid_file_is_left_unchanged(called: Called) -> None:
    called.path.parent.mkdir()
    called.path.write_text("[gate]\nmode = 7\n")
    assert "mode: 7 is unknown" in called.init("--yes", "--door", "ssh=22", status=2)
    assert called.path.read_text() == "[gate]\nmode = 7\n"


def test_without_terminal_needs_yes(called: Called) -> None:
    command = [sys.executable, "-m", "doorward", "init", "-c", str(called.path)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "not on a terminal; add --yes" in done.stderr


ASKED = [
    ("Doors, ", "nonsense\n"),
    ("Doors, ", "ssh=22 db=5432/tcp\n"),
    ("Mode: ", "hidden\n"),
    ("Mode: ", "stealth\n"),
    ("Public ports, reachable by anyone ", "80,443\n"),
    ("Keys that may knock", "KEYS\n"),
    ("Name or address that clients use ", "server.example\n"),
]


# A host on which nothing listens, without addresses and keys: it can answer nothing itself.
BARE = """
import sys
from doorward.cli.main import main
from doorward.init import survey
host = survey.survey_host()
host = host._replace(services=(), session=None, network=host.network._replace(locals=()))
survey.survey_host, survey.key_files = lambda: host, lambda: iter(())
sys.exit(main(sys.argv[1:]))
"""


def test_answers_on_a_terminal(called: Called) -> None:
    """Each question is answered when it appears; an invalid answer is asked for again."""
    master, slave = pty.openpty()
    command = [sys.executable, "-c", BARE, "init", "-c", str(called.path), "--name", "web1"]
    with running(command, stdin=slave, stdout=slave, stderr=slave) as process:
        os.close(slave)
        shown = ""
        for question, answer in ASKED:
            while not (shown.rpartition("\n")[2].startswith(question) and shown.endswith(": ")):
                shown += os.read(master, 4096).decode()
            os.write(master, answer.replace("KEYS", str(called.keys)).encode())
            shown += "\n"
        while chunk := _rest(master):
            shown += chunk
        assert process.wait(60) == 0, shown
    os.close(master)
    assert "invalid door 'nonsense'" in shown
    assert "unknown mode 'hidden'; expected one of observe, guard, stealth" in shown
    found = called.configuration()
    assert (found.gate.mode, [door.name for door in found.doors]) == (Mode.STEALTH, ["ssh", "db"])
    assert found.gate.public == (Port.parse("80/tcp"), Port.parse("443/tcp"))
    assert "laptop" in (called.path.parent / "authorized_keys").read_text()
    assert [door.knock for door in found.doors] == [(), ()]
    assert called.check() == ""
    again = called.init("--yes")  # knows what was answered
    assert parse_link(link_in(again)).host == found.gate.address == "server.example"


def test_it_asks_nothing_that_it_can_answer_itself(called: Called, monkeypatch: pytest.MonkeyPatch) -> None:
    """The port of sshd, the operator's keys and a global address are found; the mode is a choice."""
    host = survey_host()
    local = LocalAddress("eth0", ip_interface("2001:4860::7/64"))
    network = host.network._replace(locals=(local,))
    host = host._replace(services=(Service(Port.parse("2222/tcp"), "sshd"),), session=None, network=network)
    monkeypatch.setattr("doorward.init.survey.survey_host", lambda: host)
    monkeypatch.setattr("doorward.init.survey.key_files", lambda: iter([called.keys]))
    monkeypatch.setattr("doorward.cli.options.is_terminal", lambda: True)
    asked: list[str] = []

    def enter(question: str) -> str:
        asked.append(question)
        return ""

    monkeypatch.setattr("builtins.input", enter)
    printed = called.init("--name", "web1")
    assert [question.partition(":")[0] for question in asked] == ["Mode"]
    assert parse_link(link_in(printed)).host == "2001:4860::7"
    assert f"  the keys in it are those of {called.keys}\n" in printed
    assert called.configuration().gate.address is None  # it finds it again
    assert called.configuration().doors[0].opens == (Port.parse("2222/tcp"),)


def _rest(master: int) -> str:
    try:
        return os.read(master, 4096).decode()
    except OSError:  # the other end is closed
        return ""


def test_qr_code(called: Called) -> None:
    printed = called.init("--yes", "--door", "ssh=22", "--no-signed", "--qr", *ADDRESS)
    assert printed.count("█▀▀▀▀▀█") + printed.count("▄▄▄▄▄") >= 3
    assert printed.count("doorward://") == 1
