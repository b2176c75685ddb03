"""The command with which messages tell how to install a missing library."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys

import pytest

from doorward.libraries import install_command


@pytest.mark.skipif(sys.prefix == "/usr", reason="the distribution's own Python has the distribution's packages")
def test_uses_the_running_python() -> None:
    command = shlex.split(install_command("segno"))
    assert command[-1] == "segno"
    done = subprocess.run(
        [*command[:-1], "--no-index", "--dry-run", "segno"], capture_output=True, text=True, check=False
    )
    assert "already satisfied: segno" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("present", "command"),
    [
        ({"apt", "dnf"}, "apt install python3-prometheus-client"),
        ({"dnf"}, "dnf install python3-prometheus-client"),
        ({"zypper"}, "zypper install python3-prometheus-client"),
        ({"pacman"}, "pacman -S python-prometheus-client"),
        ({"apk"}, "apk add py3-prometheus-client"),
        (set(), f"{shlex.quote(sys.executable)} -m pip install prometheus_client"),
    ],
)
def test_a_distributions_python_gets_its_package(
    present: set[str], command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "prefix", "/usr")
    monkeypatch.setattr(shutil, "which", lambda program: program if program in present else None)
    assert install_command("prometheus_client") == command
