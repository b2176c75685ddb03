"""What `scripts/deb` makes: the packages, and the Debian root to install them in."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "deb"
RELEASE = tuple(filter(None, [os.environ.get("DOORWARD_DEB_RELEASE")]))  # without one, that of this host


class Built(NamedTuple):
    """What the script made."""

    folder: Path
    doorward: Path
    knockd: Path

    def fields(self, package: Path) -> dict[str, str]:
        text = subprocess.check_output(["dpkg-deb", "-f", package], text=True)
        return dict(line.split(": ", 1) for line in text.splitlines() if re.match(r"\S+: ", line))

    def paths(self, package: Path) -> set[str]:
        tar = subprocess.run(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE, check=True).stdout
        listed = subprocess.run(["tar", "-t"], input=tar, stdout=subprocess.PIPE, check=True).stdout
        return {line.removeprefix(".").rstrip("/") for line in listed.decode().splitlines()}


def script(*words: str) -> list[str]:
    """Run it for the release that is tested; gives the lines that it prints."""
    done = subprocess.run([SCRIPT, *words, *RELEASE], stdout=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0, f"{SCRIPT} {words} ended with {done.returncode}; its words are above"
    return done.stdout.splitlines()


@pytest.fixture(scope="session")
def built() -> Built:
    """Build the packages, once: another call finds them."""
    knockd, doorward = map(Path, sorted(script()))
    return Built(doorward.parent, doorward, knockd)
