"""Passphrase prompts: on a real terminal, and through SSH_ASKPASS."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from doorward.client.passphrase import ask_passphrase
from doorward.errors import HostError, NegativeResult
from tests.support.errors import raises
from tests.support.processes import running

PROGRAM = "import sys; from doorward.client.passphrase import ask_passphrase; print(ask_passphrase('/key'))"


def on_a_terminal(typed: bytes) -> tuple[str, str]:
    """Prompt in a process with its own terminal and redirected streams; return what it wrote to each."""
    ours, theirs = pty.openpty()
    command = ["setsid", "--ctty", "--wait", sys.executable, "-c", PROGRAM]
    with running(command, stdin=theirs, stderr=subprocess.PIPE) as process:
        os.close(theirs)
        shown = b""
        while b"'/key': " not in shown:
            shown += os.read(ours, 4096)
        os.write(ours, typed)
        said, _ = process.communicate(timeout=30)
    with os.fdopen(ours, "rb", buffering=0) as rest:
        try:
            while part := rest.read(4096):
                shown += part
        except OSError:  # nobody has the terminal any more
            pass
    return said, shown.decode()


def test_terminal_prompt_does_not_echo() -> None:
    said, shown = on_a_terminal(b"open sesame\n")
    assert said == "b'open sesame'\n"
    assert shown.startswith("Enter passphrase for key '/key': ")
    assert "sesame" not in shown


def without_a_terminal(**environment: str) -> subprocess.CompletedProcess[str]:
    """Prompt in a new session, which has no terminal."""
    return subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        start_new_session=True,
        timeout=60,
    )


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """Return a program that echoes its prompt."""
    path = tmp_path / "askpass"
    path.write_text('#!/bin/sh\necho "$1"\necho more\n')
    path.chmod(0o700)
    return path


@pytest.mark.parametrize(
    "environment",
    [{"DISPLAY": ":0"}, {"WAYLAND_DISPLAY": "w"}, {"SSH_ASKPASS_REQUIRE": "force"}],
    ids=["X11", "Wayland", "force"],
)
def test_askpass_program_without_a_terminal(program: Path, environment: dict[str, str]) -> None:
    done = without_a_terminal(SSH_ASKPASS=str(program), **environment)
    assert done.stdout == "b\"Enter passphrase for key '/key': \"\n"


@pytest.mark.parametrize(
    "environment", [{}, {"DISPLAY": ":0", "SSH_ASKPASS_REQUIRE": "never"}], ids=["no display", "never"]
)
def test_no_way_to_prompt_is_an_error(program: Path, environment: dict[str, str]) -> None:
    done = without_a_terminal(SSH_ASKPASS=str(program), **environment)
    assert "/key needs its passphrase, and there is no terminal to ask for it; run `ssh-add /key` once" in done.stderr


def test_failing_askpass_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSH_ASKPASS_REQUIRE", "force")
    monkeypatch.setenv("SSH_ASKPASS", "/bin/false")
    with raises(NegativeResult, "no-passphrase"):
        ask_passphrase("/key")
    monkeypatch.setenv("SSH_ASKPASS", "/nonexistent")
    with raises(HostError, "askpass-failed"):
        ask_passphrase("/key")
