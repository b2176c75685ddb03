"""`doorward on`."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
from pathlib import Path

from doorward.cli import output
from doorward.daemon import off_switch
from doorward.errors import HostError, NegativeResult, UsageError

_UNIT = "doorward.service"
_PATIENCE_S = 120.0  # above systemd's own start timeout

EXAMPLE = """\
  # doorward on
  doorward is on; start the daemon: doorward run
where systemd runs and doorward.service is enabled, this starts it
exit status: 0 doorward is on, 1 it was not off, 2 it could not be switched on"""


def add_arguments(_: argparse.ArgumentParser) -> None:
    """Declare no arguments."""


def run(_: argparse.Namespace) -> int:
    """Remove the off marker, and start the service if it is enabled."""
    if os.geteuid() != 0:
        raise UsageError("needs-root", "on: this command is for root; run it with sudo or on the console")
    try:
        off_switch.switch_on()
    except FileNotFoundError:
        raise NegativeResult("not-off", "doorward was not off; `doorward doctor` shows why it is not active") from None
    except OSError as error:
        raise HostError(
            "cannot-turn-on", f"{off_switch.marker()}: {error.strerror}; remove it as a user who can write there"
        ) from None
    if not _is_enabled():
        output.line("doorward is on; start the daemon: doorward run")
        return 0
    try:
        subprocess.run(["systemctl", "start", _UNIT], timeout=_PATIENCE_S, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise HostError(
            "unit-not-started", f"doorward is on, but {_UNIT} does not start ({error}); see `journalctl -u doorward`"
        ) from None
    output.line(f"doorward is on, and {_UNIT} is started")
    return 0


def _is_enabled() -> bool:
    """Return whether systemd runs here and starts the daemon at boot."""
    if not Path("/run/systemd/system").is_dir() or shutil.which("systemctl") is None:
        return False
    return subprocess.run(["systemctl", "--quiet", "is-enabled", _UNIT], check=False).returncode == 0
