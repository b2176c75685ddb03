"""`doorward confirm`."""

from __future__ import annotations

import argparse
from contextlib import closing
from pathlib import Path

from doorward.cli import output
from doorward.cli.config_install import Installation, check_config_path, save_last_good
from doorward.cli.options import add_config, configuration_path
from doorward.daemon.control_client import ask, default_path
from doorward.errors import NegativeResult
from doorward.kernel.ssh_session import ssh_connection

EXAMPLE = """\
  # doorward confirm
  confirmed: 2 doors, mode stealth
run it in a connection that you opened during the trial, or on the console
exit status: 0 confirmed, 1 no trial, or a connection that proves nothing"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command-line arguments."""
    add_config(parser)


def run(args: argparse.Namespace) -> int:
    """Confirm the trial from this connection, and install the file that was tried."""
    config = configuration_path(args).absolute()
    status = ask(default_path(), {"command": "status"})
    if (trial := status["trial"]) is None:
        raise NegativeResult(
            "no-trial", "no configuration is on trial; an expired trial was rolled back: see the daemon's log"
        )
    if trial["digest"] is None:  # `doorward run --trial`: nothing to install
        _confirm(config)
        return 0
    check_config_path(config, status)
    with closing(Installation(config)) as installation:
        installation.check(trial["digest"])  # before confirming
        _confirm(config, installation)
    return 0


def _confirm(config: Path, installation: Installation | None = None) -> None:
    session = ssh_connection()
    connection = session and [
        str(session.source),
        session.source_port,
        str(session.destination),
        session.destination_port,
    ]
    answer = ask(default_path(), {"command": "confirm", "connection": connection})
    if installation is not None:
        installation.finish()
        ask(default_path(), {"command": "reload_hooks"})
    save_last_good(config)
    output.line(f"confirmed: {answer['summary']}")
