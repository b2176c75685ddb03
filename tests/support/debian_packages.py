"""The products of `scripts/deb`: the packages, and the Debian root to install them in."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "deb"
EARLIER = "372b2cb54a71a3c9a5eb78f16f16c4e41e93b277"  # the last commit whose package had its own Python libraries
RELEASE = tuple(filter(None, [os.environ.get("DOORWARD_DEB_RELEASE")]))  # without one, Debian 12


class Built(NamedTuple):
    """What the script made."""

    folder: Path
    client: Path
    doorward: Path
    knockd: Path

    def fields(self, package: Path) -> dict[str, str]:
        text = subprocess.check_output(["dpkg-deb", "-f", package], text=True)
        return dict(line.split(": ", 1) for line in text.splitlines() if re.match(r"\S+: ", line))

    def paths(self, package: Path) -> set[str]:
        tar = subprocess.run(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE, check=True).stdout
        listed = subprocess.run(["tar", "-t"], input=tar, stdout=subprocess.PIPE, check=True).stdout
        return {line.removeprefix(".").rstrip("/") for line in listed.decode().splitlines()}


def script(
    *words: str,
    of: Path = SCRIPT,
    given: tuple[str, ...] = RELEASE,
    environment: Mapping[str, str] = MappingProxyType({}),
) -> list[str]:
    """Run it for the release that is tested; return the lines that it prints."""
    done = subprocess.run(
        [of, *words, *given], env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True, check=False
    )
    assert done.returncode == 0, f"{of} {words} ended with {done.returncode}; its output is above"
    return done.stdout.splitlines()


@pytest.fixture(scope="session")
def built() -> Built:
    """Build the packages, once: another call finds them."""
    client, knockd, doorward = map(Path, sorted(script()))
    return Built(doorward.parent, client, doorward, knockd)


@pytest.fixture(scope="session")
def earlier(built: Built) -> Path:
    """Build the package of an earlier commit, once, with its script, and copy it to where a machine sees it."""
    release = "".join(RELEASE) or "bookworm"
    kept = ROOT / "build" / "earlier" / release
    if not list(kept.glob("doorward_*.deb")):
        tree = subprocess.run(["git", "archive", EARLIER], cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout
        with TemporaryDirectory(prefix="doorward-earlier-") as clone:
            subprocess.run(["tar", "-x", "-C", clone], input=tree, check=True)
            earlier_script = Path(clone) / "scripts" / "deb"
            date_passed = """--aptopt='Acquire::Check-Valid-Until "false"'"""  # as in scripts/roots.sh
            text = earlier_script.read_text().replace("mmdebstrap ", f"mmdebstrap {date_passed} ")
            # It looks for what it built under the release's name, and sid calls itself by the name of the next.
            earlier_script.write_text(text.replace('/build/deb/$release"/*', '/build/deb/"*/*'))
            cache = {"XDG_CACHE_HOME": str(Path(clone) / "cache")}  # its roots have the names of today's
            packages = script(of=earlier_script, given=(release,), environment=cache)
            kept.mkdir(parents=True)
            for path in packages:
                shutil.copy(path, kept)
    (package,) = kept.glob("doorward_*.deb")
    seen = built.folder / "earlier"  # not among the packages that the script lists
    seen.mkdir(exist_ok=True)
    return Path(shutil.copy(package, seen))
