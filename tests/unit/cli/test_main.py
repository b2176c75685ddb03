"""The command line as a whole: overview, hints, help texts and exit statuses."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from doorward import __version__
from doorward.cli import main as module
from doorward.cli.main import COMMANDS, build_parser, main
from doorward.errors import ConfigError, ConfigFault, DoorwardError, HostError, NegativeResult, UsageError
from tests.support.processes import own_namespace


@pytest.fixture(autouse=True)
def on_a_host_without_doorward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "RUNTIME_DIRECTORY", "STATE_DIRECTORY", "CONFIGURATION_DIRECTORY":
        monkeypatch.setenv(name, str(tmp_path / name.lower()))


def fits_a_screen(text: str) -> bool:
    lines = text.splitlines()
    assert len(lines) <= 42, f"{len(lines)} lines"  # of a window; a terminal of 24 lines scrolls for a few commands
    assert [line for line in lines if len(line) > 80] == []
    return True


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["help"]])
def test_the_overview_names_every_command(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith("usage: doorward COMMAND")
    assert re.findall(r"^  (\S+)  ", out, re.MULTILINE) == list(COMMANDS)
    assert fits_a_screen(out)


def test_help_explains_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["help", "knock"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == build_parser("knock").format_help()
    assert main(["help", "nock"]) == 2
    assert "did you mean 'knock'?" in capsys.readouterr().err


def test_without_command_prints_overview(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "COMMAND" in "".join(capsys.readouterr())


@pytest.mark.parametrize("word", ["--version", "-V", "version"])
def test_version(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([word]) == 0
    assert capsys.readouterr() == (f"doorward {__version__}\n", "")


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("statsu", "did you mean 'status'?"),
        ("opne", "did you mean 'open'?"),
        ("complie", "did you mean 'compile'?"),
        ("xyzzy", "`doorward --help` lists the commands"),
        ("", "`doorward --help` lists the commands"),
        ("--nonsense", "`doorward --help` lists the commands"),
    ],
)
def test_an_unknown_command(word: str, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([word]) == 2
    assert capsys.readouterr() == ("", f"doorward: unknown command {word!r}; {hint}\n")


@pytest.mark.parametrize("name", COMMANDS)
def test_help_fits_screen_with_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith(f"usage: doorward {name} ")
    assert COMMANDS[name] in out
    assert "example" in out
    assert re.search(rf"^ +(\S+ )?doorward {name}\b", out, re.MULTILINE), "no call in the example"
    assert fits_a_screen(out)


@pytest.mark.parametrize("name", COMMANDS)
def test_invalid_option_exits_with_2(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([name, "--no-such-option"])
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert f"doorward {name}: error: " in err


def test_help_with_percent_in_directory(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("CONFIGURATION_DIRECTORY", "/etc/100%(sure)s")
    with pytest.raises(SystemExit):
        main(["check", "--help"])
    assert "/etc/100%(sure)s/doorward.toml" in "".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("error", "status", "says"),
    [
        (NegativeResult("not-open", "it is not open"), 1, "doorward: it is not open\n"),
        (UsageError("unknown-door", "no such door"), 2, "doorward: no such door\n"),
        (HostError("lines", "two\nlines"), 2, "doorward: two\ndoorward: lines\n"),
        (
            ConfigError([ConfigFault("fault", "f", 2, "b", "write c"), ConfigFault("fault", "f", 1, "a", "write b")]),
            2,
            "doorward: f:1: a; write b\ndoorward: f:2: b; write c\n",
        ),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_error_becomes_message_and_exit_status(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: DoorwardError | KeyboardInterrupt,
    status: int,
    says: str,
) -> None:
    def run(_: argparse.Namespace) -> int:
        raise error

    monkeypatch.setattr(module, "load", lambda _: SimpleNamespace(EXAMPLE="", run=run, add_arguments=lambda _: None))
    assert main(["status"]) == status
    assert capsys.readouterr() == ("", says)


def test_exit_status_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    own = SimpleNamespace(EXAMPLE="", run=lambda _: 7, add_arguments=lambda _: None)
    monkeypatch.setattr(module, "load", lambda _: own)
    assert main(["status"]) == 7


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (["status"], 1, "no daemon answers at .*control.sock .*`systemctl start doorward`"),
        (["status", "--json"], 1, "no daemon answers"),
        (["open", "ssh", "192.0.2.7"], 1, "no daemon answers"),
        (["close", "ssh", "192.0.2.7"], 1, "no daemon answers"),
        (["log"], 2, "no ledger; it begins when `doorward run` first starts"),
        (["log", "--last", "0"], 2, "--last: 0 is too small"),
        (["log", "-n", "0"], 2, "--last: 0 is too small"),
        (["log", "--since", "90"], 2, '--since: .*"90s"'),
        (["compile"], 2, "no such file"),
    ],
)
def test_on_a_host_without_a_daemon(
    words: list[str], status: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert re.search(says, err)
    assert err.startswith("doorward: ")


@pytest.mark.netns("nft")
def test_failed_daemon_start_leaves_no_socket(tmp_path: Path) -> None:
    with own_namespace():
        done = subprocess.run([sys.executable, "-m", "doorward", "run"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert re.fullmatch("doorward: .*doorward.toml: no such file; .*\n", done.stderr)
    assert not (tmp_path / "runtime_directory" / "control.sock").exists()


def test_only_the_commands_module_is_imported() -> None:
    code = "import sys; from doorward.cli.main import build_parser; build_parser('log'); print(*sys.modules)"
    loaded = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert "doorward.cli.log" in loaded
    assert [name for name in loaded if name.startswith("doorward.cli.") and name.split(".")[-1] in COMMANDS] == [
        "doorward.cli.log"
    ]
    assert "doorward.daemon.daemon" not in loaded


@pytest.mark.parametrize(
    ("modules", "unneeded"),
    [
        ("cli.run, doorward.cli.check, doorward.cli.compile, doorward.knockd.knockd_daemon", {"cryptography"}),
        ("cli.open, doorward.cli.close, doorward.cli.status", {"dataclasses", "tempfile", "tomllib"}),
    ],
    ids=["a gate without signed knocks", "a question to the daemon"],
)
def test_unneeded_libraries_are_not_imported(modules: str, unneeded: set[str]) -> None:
    code = f"import sys; import doorward.{modules}; print(*sys.modules)"
    loaded = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert unneeded.intersection(loaded) == set()


@pytest.mark.parametrize(("command", "skips"), [("knock", True), ("proxy", True), ("hosts", False)])
def test_a_knock_skips_garbage_collection(command: str, skips: bool) -> None:
    code = (
        "import atexit, gc, sys; from doorward.cli.main import main; usual = gc.get_threshold()\n"
        "atexit.register(lambda: print(gc.get_threshold() != usual, gc.get_freeze_count() > 1000)); main()"
    )
    done = subprocess.run([sys.executable, "-c", code, command, "--help"], capture_output=True, text=True, check=True)
    assert done.stdout.endswith(f"\n{skips} {skips}\n")


def test_every_parser_knows_its_program() -> None:
    assert {name: build_parser(name).prog for name in COMMANDS} == {name: f"doorward {name}" for name in COMMANDS}


@pytest.mark.parametrize("words", [["--help"], ["status", "--help"], ["compile"]])
def test_closed_pipe_is_not_an_error(words: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "configuration_directory"
    folder.mkdir()
    (folder / "doorward.toml").write_text('[doors.ssh]\nopens = ["22/tcp"]\n')
    read, write = os.pipe()
    os.close(read)
    buffered = {**os.environ, "PYTHONUNBUFFERED": ""}
    command = [sys.executable, "-m", "doorward", *words]
    with os.fdopen(write, "wb") as pipe:
        done = subprocess.run(command, stdout=pipe, stderr=subprocess.PIPE, text=True, env=buffered, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_client_alone_names_the_package_of_other_commands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "doorward.cli.run", None)  # Python's own sign for a module that cannot be imported
    assert main(["run"]) == 2
    assert capsys.readouterr().err == (
        "doorward: this is the client alone, without `doorward run`; install the package doorward\n"
    )
