"""`scripts/release`: from a tag to signed files, the same ones each time; nothing from anything but a tag."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path

import pytest

from doorward import __version__

ROOT = Path(__file__).parents[2]
PUBLISHER = {"DOORWARD_PUBLISHER": "Ada Example <ada@example.org> https://ada.example.org/"}

pytestmark = [
    pytest.mark.netns("mmdebstrap", "git", "ssh-keygen"),
    pytest.mark.debian,
    pytest.mark.timeout(1800),  # makes an environment and two Debian roots if they are missing
]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone whose last commit is a release, not yet tagged."""
    folder = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", ROOT, folder], check=True)
    for name, value in (("user.name", "Ada"), ("user.email", "ada@example.org")):
        subprocess.run(["git", "config", name, value], cwd=folder, check=True)
    changes = folder / "CHANGELOG.md"
    changes.write_text(changes.read_text().replace("## Unreleased", f"## {__version__}", 1))
    subprocess.run(["git", "commit", "-q", "--allow-empty", "-am", f"Release {__version__}"], cwd=folder, check=True)
    return folder


def release(clone: Path, key: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [clone / "scripts" / "release", key]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_twice_the_same_files_from_a_tag(clone: Path, tmp_path: Path) -> None:
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    assert "DOORWARD_PUBLISHER" in release(clone, key, {"DOORWARD_PUBLISHER": ""}).stderr
    assert f"not tagged v{__version__}" in release(clone, key, PUBLISHER).stderr
    subprocess.run(["git", "tag", f"v{__version__}"], cwd=clone, check=True)

    folder = clone / "build" / "release" / __version__
    found = []
    for _ in range(2):
        done = release(clone, key, PUBLISHER)
        assert done.returncode == 0, done.stderr
        found.append(digests(folder))
    assert found[0] == found[1]
    packages = sorted(folder.glob("*.deb"))
    assert len(packages) == 3
    for package in packages:
        fields = subprocess.check_output(["dpkg-deb", "-f", package, "Maintainer", "Homepage"], text=True)
        assert fields == "Maintainer: Ada Example <ada@example.org>\nHomepage: https://ada.example.org/\n"
    assert {name.rpartition(".")[2] for name in found[0]} == {
        "SHA256SUMS", "deb", "gz", "json", "pyz", "rpm", "sig", "whl",
    }  # fmt: skip
    listed = dict(line.split("  ")[::-1] for line in (folder / "SHA256SUMS").read_text().splitlines())
    assert listed == {name: digest for name, digest in found[0].items() if not name.startswith("SHA256SUMS")}
    assert json.loads((folder / f"doorward-{__version__}.cdx.json").read_text())["bomFormat"] == "CycloneDX"

    signers = tmp_path / "signers"
    signers.write_text(f'releases@doorward namespaces="doorward-release" {key.with_suffix(".pub").read_text()}')
    identity = ["-I", "releases@doorward", "-n", "doorward-release"]
    verify = ["ssh-keygen", "-Y", "verify", "-f", str(signers), *identity, "-s", str(folder / "SHA256SUMS.sig")]
    sums = (folder / "SHA256SUMS").read_bytes()
    subprocess.run(verify, input=sums, check=True, capture_output=True)

    (clone / "README.md").write_text("changed")
    assert "working tree differs" in release(clone, key, PUBLISHER).stderr
