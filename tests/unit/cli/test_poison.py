"""Text from ledger, daemon, etcd or certificates can neither control the terminal nor add lines."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from doorward.cli import fleet
from doorward.cli.main import main
from doorward.fleet.admin import GateStatus
from tests.support.poison import POISON, SPOOF, poison_ledger, poisoned_daemon

COMMANDS = [
    "log",
    "log --json",
    "explain 192.0.2.7",
    "explain 192.0.2.7 --json",
    "status",
    "status --json",
    "watch --plain",
    "watch --json",
    "open ssh 192.0.2.7",
    "open ssh 192.0.2.7 --json",
    "close ssh 192.0.2.7",
    "ban",
    "ban --json",
    "ban 192.0.2.7",
    "unban 192.0.2.7",
    f"log --address {POISON.split()[0]}",
]
ALL = "import sys\nfrom doorward.cli.main import main\nfor words in sys.argv[1:]: print('##', main(words.split(' ')))"


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Run all commands and return what a terminal would show."""
    folder = tmp_path_factory.mktemp("poison")
    poison_ledger(folder / "ledger.sqlite3")
    environment = {**os.environ, "RUNTIME_DIRECTORY": str(folder), "STATE_DIRECTORY": str(folder), "TERM": "xterm"}
    handle, inner = os.openpty()
    with poisoned_daemon(folder / "control.sock"):
        process = subprocess.Popen(
            [sys.executable, "-c", ALL, *COMMANDS], env=environment, stdin=inner, stdout=inner, stderr=inner
        )
        os.close(inner)
        seen = b"".join(iter(lambda: _read(handle), b""))
        assert process.wait(60) == 0, seen
    os.close(handle)
    return seen.decode()


def _read(handle: int) -> bytes:
    try:
        return os.read(handle, 65536)
    except OSError:  # the other end is closed
        return b""


def test_no_control_character_reaches_the_terminal(shown: str) -> None:
    assert shown.count("## ") == len(COMMANDS)
    lines = re.sub("\x1b\\[(3[1-6]|0)m", "", shown.replace("\r\n", "\n"))  # but for doorward's own colors
    assert [letter for letter in sorted(set(lines)) if letter < " " or "\x7f" <= letter <= "\x9f"] == ["\n"]
    assert "\u202e" not in lines


def test_no_text_adds_a_line(shown: str) -> None:
    assert SPOOF in shown
    assert not any(line.startswith(SPOOF) for line in shown.splitlines())


def test_every_object_has_its_version_and_no_time_is_a_number(shown: str) -> None:
    objects = [json.loads(line) for line in shown.splitlines() if line.startswith("{")]
    assert len(objects) >= sum(command.endswith("--json") for command in COMMANDS)
    assert {each["version"] for each in objects} == {1}
    assert [number for number in numbers_in(objects) if number > 1e9] == []  # seconds since the epoch


def numbers_in(value: object) -> Iterator[float]:
    if isinstance(value, int | float):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from numbers_in(inner)


def test_fleet_output_is_escaped(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    gate = GateStatus(POISON, "up", {"doors": 1, "version": POISON, "fault": POISON})
    row = {"at_ms": 1, "gate": POISON, "event": POISON, "door": POISON, "address": POISON, "words": POISON}
    asked: Any = SimpleNamespace(fleet=POISON, status=lambda: [gate], openings=list, records=lambda _: [row])

    @contextmanager
    def open_admin(_: object) -> Iterator[Any]:
        yield asked

    monkeypatch.setattr(fleet, "open_admin", open_admin)
    assert main(["status", "--fleet"]) == 0
    assert main(["log", "--fleet"]) == 0
    out = capsys.readouterr().out
    assert "owned" in out
    assert out.replace("\n", "").isprintable()
    assert not any(line.startswith(SPOOF) for line in out.splitlines())
