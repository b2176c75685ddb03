"""The daemon's log: each event as text and as JSON."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from doorward.core.openings import log_fields
from doorward.daemon import log as module
from doorward.daemon.log import COUNT_AFTER_S, LINES_AT_ONCE, Log, text_of
from tests.support.openings import opening

NOW_S = [1000.0]  # of CLOCK_MONOTONIC, for the limit


@pytest.fixture(autouse=True)
def at_noon_in_kathmandu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(module, "time", SimpleNamespace(time=lambda: 1_777_616_100.25, monotonic=lambda: NOW_S[0]))
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    monkeypatch.setenv("TZ", "XXX-5:45")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def written(form: str, *calls: tuple[object, ...]) -> list[str]:
    stream = io.StringIO()
    log = Log(form, stream)
    for method, *arguments in calls:
        getattr(log, str(method))(*arguments)
    return stream.getvalue().splitlines()


OPENED = ("event", "opened", log_fields(opening(), 30.0, "knock"))
PROLONGED = ("event", "prolonged", log_fields(opening("web", "2001:db8::7", "80/tcp 443/tcp"), 599.9997, "hand"))
CLOSED = ("event", "closed", log_fields(opening("wake", opened=""), 30.4, "time"))
REFUSED = ("event", "refused", {"address": "203.0.113.9", "door": "ssh", "reason": "the open set is full"})
SCANNER = ("event", "refused", {"address": "203.0.113.9", "door": None, "reason": "a scanner"})
SAID = ("message", "started", "2 doors, mode guard; 0 open")
COMPLAINED = ("message", "not-reloaded", "the configuration was not reloaded", "error")

TEXT = {
    OPENED[1]: (OPENED, "opened ssh to 192.0.2.7 for 30s (22/tcp), by knock"),
    PROLONGED[1]: (PROLONGED, "prolonged web for 2001:db8::7 to 10m more, by hand"),
    CLOSED[1]: (CLOSED, "closed wake to 192.0.2.7, by time"),
    "refused": (REFUSED, "refused 203.0.113.9: the open set is full"),
    "scanner": (SCANNER, "refused 203.0.113.9: a scanner"),
    "said": (SAID, "2 doors, mode guard; 0 open"),
    "complained": (COMPLAINED, "error: the configuration was not reloaded"),
}


@pytest.mark.parametrize(("call", "expected"), TEXT.values(), ids=map(str, TEXT))
def test_text(call: tuple[object, ...], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert written("text", call) == [f"2026-05-01T12:00:00+0545 {expected}"]
    monkeypatch.setenv("JOURNAL_STREAM", "8:12345")  # the journal stamps lines itself
    assert written("text", call) == [expected]


def test_json_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "8:12345")  # changes nothing here
    stamp = "2026-05-01T06:15:00.250+00:00"
    assert [json.loads(line) for line in written("json", OPENED, PROLONGED, CLOSED, SCANNER, COMPLAINED)] == [
        {
            "version": 1,
            "time": stamp,
            "event": "opened",
            "door": "ssh",
            "address": "192.0.2.7",
            "ports": ["22/tcp"],
            "for_s": 30.0,
            "by": "knock",
        },
        {
            "version": 1,
            "time": stamp,
            "event": "prolonged",
            "door": "web",
            "address": "2001:db8::7",
            "ports": ["80/tcp", "443/tcp"],
            "for_s": 599.9997,
            "by": "hand",
        },
        {
            "version": 1,
            "time": stamp,
            "event": "closed",
            "door": "wake",
            "address": "192.0.2.7",
            "ports": [],
            "for_s": 30.4,
            "by": "time",
        },
        {
            "version": 1,
            "time": stamp,
            "event": "refused",
            "address": "203.0.113.9",
            "door": None,
            "reason": "a scanner",
        },
        {
            "version": 1,
            "time": stamp,
            "event": "message",
            "level": "error",
            "code": "not-reloaded",
            "message": "the configuration was not reloaded",
        },
    ]


def test_renewals_by_a_key_are_logged_once_and_counted() -> None:
    """A door that is held open is knocked at every few seconds; who follows the events has them all."""
    at = opening()
    opened = ("event", "opened", log_fields(at, 60.0, "key laptop"))
    renewed, by_other, by_hand = (
        ("event", "prolonged", log_fields(at, 60.0, by)) for by in ("key laptop", "key phone", "hand")
    )
    closed = ("event", "closed", log_fields(at, 99.0, "time"))
    lines = written("text", opened, renewed, renewed, by_other, renewed, by_hand, by_hand, by_other, closed, closed)
    assert [line.partition(" ")[2] for line in lines] == [
        "opened ssh to 192.0.2.7 for 1m (22/tcp), by key laptop",
        "prolonged ssh for 192.0.2.7 to 1m more, by key laptop",
        "prolonged ssh for 192.0.2.7 to 1m more, by key phone",
        *["prolonged ssh for 192.0.2.7 to 1m more, by hand"] * 2,
        "closed ssh to 192.0.2.7, by time, prolonged 5 times",
        "closed ssh to 192.0.2.7, by time",
    ]
    json_lines = [json.loads(line) for line in written("json", opened, renewed, renewed, closed, opened, renewed)]
    assert [line["event"] for line in json_lines] == ["opened", "prolonged", "closed", "opened", "prolonged"]
    assert json_lines[2]["prolonged"] == 2


@pytest.mark.parametrize("event", ["confirmed", "unconfirmed"])
def test_confirmations_of_renewals_that_are_only_counted_are_not_logged(event: str) -> None:
    renewed, by_other = (("event", "prolonged", log_fields(opening(), 60.0, f"key {name}")) for name in "ab")
    fields = {"door": "ssh", "address": "192.0.2.7", "to": "192.0.2.7", "reason": "it is off"}
    confirmed, to_other = (("event", event, {**fields, "by": f"key {name}"}) for name in "ab")
    closed = ("event", "closed", log_fields(opening(), 99.0, "key a"))
    lines = written("json", confirmed, renewed, confirmed, renewed, confirmed, by_other, to_other, closed, confirmed)
    found = [json.loads(line) for line in lines]
    assert [line["by"] for line in found if line["event"] == event] == ["key a", "key a", "key b", "key a"]


def test_every_renewal_reaches_the_listeners() -> None:
    log, seen = Log("text", io.StringIO()), []
    log.listeners.append(lambda event, _: seen.append(event))
    for _ in range(3):
        log.event("prolonged", log_fields(opening(), 60.0, "key laptop"))
    assert seen == ["prolonged"] * 3


@pytest.mark.parametrize(
    ("for_s", "expected"),
    [
        (30.0, "30s"),
        (30, "30s"),
        (29.9996, "30s"),
        (30.4, "30s"),
        (3600.0, "1h"),
        (90.0, "90s"),
        (1.0, "1s"),
        (0.9996, "1s"),
        (0.25, "250ms"),
        (0.0, "1ms"),
        (-0.2, "1ms"),  # it ended while it was written down
        (365 * 86400.0, "365d"),
    ],
)
def test_how_long(for_s: float, expected: str) -> None:
    fields = {"door": "ssh", "address": "192.0.2.7", "ports": [], "for_s": for_s, "by": "knock"}
    assert text_of("opened", fields) == f"opened ssh to 192.0.2.7 for {expected} (no port), by knock"


def test_an_event_is_one_line_whatever_it_says() -> None:
    for form in "text", "json":
        assert (
            len(
                written(
                    form, ("message", "two-lines", "one line\nand 2026-05-01T12:00:00+0545 opened ssh to 203.0.113.9")
                )
            )
            == 1
        )


class Full(io.StringIO):
    def write(self, _: str) -> int:
        raise OSError(28, "No space left on device")


def test_a_log_that_nobody_takes_does_not_end_the_daemon() -> None:
    Log("text", Full()).message("started", "anybody?")


def test_standard_error_is_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    Log("text").message("started", "hello")
    assert capsys.readouterr() == ("", "2026-05-01T12:00:00+0545 hello\n")


def test_no_text_commands_the_terminal_or_makes_a_line_of_its_own() -> None:
    for form in ("text", "json"):
        stream = io.StringIO()
        log = Log(form, stream)
        log.event("refused", {"address": "203.0.113.9", "door": None, "reason": "key x\x1b]0;y\x07\nopened\x7f\u202e"})
        log.message("clock", "key x\x1b]0;y\x07 is late")
        lines = stream.getvalue().splitlines()
        assert len(lines) == 2
        assert all(line.isprintable() for line in lines)


def test_suppressed_lines_of_a_kind_are_counted_and_reported() -> None:
    stream = io.StringIO()
    log = Log("json", stream)
    for _ in range(LINES_AT_ONCE + 7):
        log.event(*REFUSED[1:])
    log.event(*OPENED[1:])  # another kind has room of its own
    assert log.due_s == NOW_S[0] + COUNT_AFTER_S
    log.log_suppressed()
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["event"] for line in lines] == ["refused"] * LINES_AT_ONCE + ["opened", "message"]
    assert "left out: 7 'refused'" in lines[-1]["message"]
    assert log.due_s == float("inf")
    log.log_suppressed()  # nothing more to tell
    assert len(stream.getvalue().splitlines()) == len(lines)
