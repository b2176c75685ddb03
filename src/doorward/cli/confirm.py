"""`doorward confirm`."""

from __future__ import annotations

import argparse
from pathlib import Path

from doorward.cli import render
from doorward.cli.installing import Installation, keep
from doorward.daemon.control import ask, default_path
from doorward.errors import AnswerNo
from doorward.session import ssh_connection

EXAMPLE = """\
  # doorward confirm
  confirmed: 2 doors, mode stealth
run it in a connection that you opened during the trial, or on the console
exit status: 0 the new gate stays, 1 this session proves nothing, or no trial"""


def add_arguments(_: argparse.ArgumentParser) -> None:
    """Declare the command's words: there are none."""


def run(_: argparse.Namespace) -> int:
    """Say from which connection this is called, and install what was tried."""
    status = ask(default_path(), {"command": "status"})
    if (trial := status["trial"]) is None:
        raise AnswerNo("no gate is on trial; if there was one, it was taken back: the daemon's log tells")
    installation = Installation(Path(status["config"]))
    if trial["digest"] is not None:
        installation.check(trial["digest"])  # before anything is confirmed
    session = ssh_connection()
    connection = session and [
        str(session.source),
        session.source_port,
        str(session.destination),
        session.destination_port,
    ]
    answer = ask(default_path(), {"command": "confirm", "connection": connection})
    if trial["digest"] is not None:
        installation.finish()
        ask(default_path(), {"command": "installed"})
    keep(installation.config)
    render.line(f"confirmed: {answer['summary']}")
    return 0
