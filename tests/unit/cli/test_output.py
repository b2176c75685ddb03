"""Output: tables, times and durations."""

from __future__ import annotations

import io
import json

import pytest

from doorward.cli import output


@pytest.mark.parametrize(
    ("head", "rows", "expected"),
    [
        (("door", "address"), [], "door  address\n"),
        (("door", "left"), [("ssh", "21s")], "door  left\nssh   21s\n"),
        (
            ("door", "address", "left"),
            [("a-long-name", "192.0.2.7", "1s"), ("b", "2001:db8::7", ""), ("", "", "2s")],
            "door         address      left\n"
            "a-long-name  192.0.2.7    1s\n"
            "b            2001:db8::7\n"
            "                          2s\n",
        ),
    ],
)
def test_tables_are_aligned_without_trailing_spaces(
    capsys: pytest.CaptureFixture[str], head: tuple[str, ...], rows: list[tuple[str, ...]], expected: str
) -> None:
    output.table(head, rows)
    assert capsys.readouterr().out == expected


def test_row_of_wrong_length_is_an_error() -> None:
    with pytest.raises(ValueError, match="zip"):
        output.table(("a", "b"), [("1",)])


def test_json_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"door": "ssh", "ports": ["22/tcp"], "text": "two\nlines für größer"}
    output.as_json(value)
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert json.loads(out) == {"version": 1, **value}


@pytest.mark.usefixtures("in_kathmandu")
def test_times_are_local() -> None:
    assert output.format_time(1_777_616_100.9) == "2026-05-01 12:00:00"


class Screen(io.StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("choice", "on_terminal", "environment", "expected"),
    [
        ("auto", True, {}, True),
        ("auto", False, {}, False),
        ("auto", True, {"NO_COLOR": "1"}, False),
        ("auto", True, {"NO_COLOR": ""}, True),  # as no-color.org has it
        ("auto", True, {"TERM": "dumb"}, False),
        ("always", False, {"NO_COLOR": "1"}, True),
        ("never", True, {}, False),
    ],
)
def test_colors(
    choice: str, on_terminal: bool, environment: dict[str, str], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    stream = Screen() if on_terminal else io.StringIO()
    output.LevelPrinter(choice, stream).line(("error", "error:"), " \x1b[2J")
    assert stream.getvalue() == ("\x1b[31merror:\x1b[0m" if expected else "error:") + " \\x1b[2J\n"
