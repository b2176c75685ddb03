"""The command with which messages tell how to install a missing library."""

from __future__ import annotations

import shlex
import subprocess

from doorward.libraries import install_command


def test_uses_the_running_python() -> None:
    command = shlex.split(install_command("segno"))
    assert command[-1] == "segno"
    done = subprocess.run(
        [*command[:-1], "--no-index", "--dry-run", "segno"], capture_output=True, text=True, check=False
    )
    assert "already satisfied: segno" in done.stdout, done.stderr
