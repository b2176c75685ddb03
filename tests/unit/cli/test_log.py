"""`doorward log`: which records it prints, what it adds to a confirmed knock, and what follows with -f."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from datetime import datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest

from doorward.cli import log
from doorward.cli.main import main, parse
from doorward.cli.options import since_s
from doorward.daemon.ledger import Ledger, Record, read_records
from doorward.errors import UsageError
from doorward.model import BY_BROWSER
from tests.support.daemon import seconds_of
from tests.support.errors import raises
from tests.support.openings import opening

HOME = ip_address("192.0.2.7")


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))
    with closing(Ledger(tmp_path / "ledger.sqlite3")) as ledger:
        yield ledger


@pytest.mark.parametrize(
    ("outcome", "shown"),
    [
        (None, ""),
        ("sent", ""),
        ("rate", "; not confirmed: more than 200 confirmations per second"),
        ("\x1b[2J", "; not confirmed: \\x1b[2J"),
    ],
)
@pytest.mark.parametrize("is_closed", [False, True])
def test_it_says_why_a_knock_was_not_confirmed(
    ledger: Ledger, capsys: pytest.CaptureFixture[str], outcome: str | None, shown: str, is_closed: bool
) -> None:
    ledger.opened(opening())
    assert main(["log"]) == 0
    if is_closed:
        ledger.closed("ssh", HOME, 1004.0, "key ada")
        assert main(["log"]) == 0
    *_, plain = capsys.readouterr().out.splitlines()
    if outcome is not None:
        ledger.confirmed("ssh", HOME, outcome)
    assert main(["log"]) == 0
    assert capsys.readouterr().out == f"{plain}{shown}\n"
    assert main(["log", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["confirmation"] == outcome


DAY_S = 86_400.0


def doors(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    assert main(["log", "--json", *words]) == 0
    return [json.loads(line)["door"] for line in capsys.readouterr().out.splitlines()]


def test_since_takes_a_duration_a_date_a_time_or_today(
    ledger: Ledger, capsys: pytest.CaptureFixture[str], in_kathmandu: None
) -> None:
    now = datetime.now().astimezone()
    today_s = now.replace(hour=0, minute=0, second=0, microsecond=0).timestamp()
    may_s = datetime.fromisoformat("2026-05-01T00:00+05:45").timestamp()
    noon_s, now_s = may_s + DAY_S / 2, now.timestamp()
    times = {"old": may_s - 1, "may": may_s, "noon": noon_s, "yesterday": today_s - 1, "now": now_s}
    for door, at_s in times.items():
        ledger.opened(opening(door, since_s=at_s, until_s=at_s + 1))
    names = list(times)
    firsts = {"2026-05-01": 1, "2026-05-01T12:00": 2, "2026-05-01T06:15:00Z": 2, "today": 4}
    for since, first in firsts.items():
        assert doors(capsys, "--since", since) == names[first:], since
    assert doors(capsys, "-n", "2") == names[-2:]
    with raises(UsageError, "invalid-duration"):
        since_s("yesterday")
    with raises(UsageError, "since-in-future"):
        since_s(str(now.date() + timedelta(days=1)))


def test_by_takes_the_name_of_a_key(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    openers = ("key ada", f"key ada{BY_BROWSER}", "key adam", "knock", "hand")
    for number, by in enumerate(openers):
        ledger.opened(opening(f"door{number}", since_s=1000.0 + number, by=by))
    ledger.refused(None, HOME, 1010.0, "ada")
    assert doors(capsys, "--by", "ada") == ["door0", "door1"]
    assert doors(capsys, "--by", "knock") == ["door3"]
    assert doors(capsys, "--by", "nobody") == []


def test_follow_prints_what_is_new_and_what_ends(ledger: Ledger) -> None:
    now_s = float(int(time.time()))
    ledger.opened(opening("old", since_s=now_s, until_s=now_s + 30))
    command = [sys.executable, "-m", "doorward", "log", "-f", "--json", "-n", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = (json.loads(line) for line in process.stdout)
        assert (first := next(lines))["door"] == "old"
        assert seconds_of(first["at"]) == now_s
        ledger.refused(None, HOME, now_s + 1, "a scanner")
        assert next(lines)["reason"] == "a scanner"
        ledger.closed("old", HOME, now_s + 2, "hand")
        ended = next(lines)
        assert (ended["door"], ended["closed_by"]) == ("old", "hand")
        process.terminate()


def followed(*changes: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> list[list[Record]]:
    """Return what `log -f` prints before each change, and after the last."""
    batches: list[list[Record]] = [[]]
    left = list(changes)

    def sleep(_: float) -> None:
        if not left:
            raise KeyboardInterrupt
        left.pop(0)()
        batches.append([])

    monkeypatch.setattr(time, "sleep", sleep)
    with suppress(KeyboardInterrupt):
        for record in log._followed(parse("log", ["-f", "-n", "1"])):
            batches[-1].append(record)
    return batches


def test_follow_prints_an_end_behind_many_refusals(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "MOST_FOLLOWED", 30)
    now_s = time.time()
    ledger.opened(opening("old", since_s=now_s, until_s=now_s + 3600))

    def refuse(begin_s: float) -> None:
        for number in range(15):
            ledger.refused(None, HOME, begin_s + number, "a scanner")

    printed = followed(
        lambda: refuse(now_s + 1),
        lambda: refuse(now_s + 100),
        lambda: ledger.closed("old", HOME, now_s + 200, "hand"),
        monkeypatch=monkeypatch,
    )
    assert [len(records) for records in printed] == [1, 15, 15, 1]
    assert printed[3][0].detail["closed_by"] == "hand"


def test_follow_waits_for_a_ledger_that_is_replaced(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now_s = time.time()
    ledger.refused(None, HOME, now_s, "a scanner")
    ledger.close()

    def record_again() -> None:
        with closing(Ledger(ledger.path)) as other:
            other.refused(None, HOME, now_s + 1, "another")

    printed = followed(ledger.path.unlink, lambda: None, record_again, monkeypatch=monkeypatch)
    assert [[record.at_s for record in records] for records in printed] == [[now_s], [], [], [now_s + 1]]
    assert capsys.readouterr().err.count("no ledger") == 1


def test_follow_does_not_read_the_whole_ledger_again(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    hour_s = 3600.0
    now_s = time.time()
    ledger.opened(opening("old", since_s=now_s - 9 * hour_s, until_s=now_s - 8 * hour_s))
    ledger.opened(opening("open", since_s=now_s - 5 * hour_s, until_s=now_s + hour_s))
    polls = list[float]()

    def read(args: argparse.Namespace, begin_s: float, last: int, refused_s: float = 0.0) -> Iterator[Record]:
        polls.append(begin_s)
        return read_records(ledger.path, begin_s, last, args.door, refused_since_s=refused_s)

    class EndError(Exception):
        """The second poll is done."""

    def sleep(_: float) -> None:
        if len(polls) % 2 == 0:
            raise EndError

    monkeypatch.setattr(log, "_records", read)
    monkeypatch.setattr(time, "sleep", sleep)
    for door in (None, "old", "new"):
        with pytest.raises(EndError):
            list(log._followed(argparse.Namespace(since=None, last=100, door=door)))
    assert polls[::2] == [0.0] * 3
    assert polls[1] == now_s - 5 * hour_s
    assert min(polls[3], polls[5]) >= now_s - hour_s


def test_more_lines_than_sqlite_can_count(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    ledger.opened(opening("old", since_s=1000.0))
    assert doors(capsys, "-n", str(2**64)) == ["old"]


def test_the_fleets_log_is_not_followed(ledger: Ledger) -> None:
    assert main(["log", "--fleet", "-f"]) == 2


@pytest.mark.parametrize(("when", "has_colors"), [("always", True), ("never", False), ("auto", False)])
def test_the_event_has_the_color_of_its_level(
    ledger: Ledger, capsys: pytest.CaptureFixture[str], when: str, has_colors: bool
) -> None:
    ledger.refused(None, HOME, 1001.0, "\x1b[0m")
    assert main(["log", "--color", when]) == 0
    out = capsys.readouterr().out
    assert ("\x1b[33mrefused\x1b[0m" in out) is has_colors
    assert out.count("\x1b") == 2 * has_colors
