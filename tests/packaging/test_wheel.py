"""The wheel: built from this tree, installed in a fresh environment, and used there."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import venv
from email import message_from_string
from pathlib import Path
from zipfile import ZipFile

import pytest

from doorward import __version__
from doorward.cli.main import COMMANDS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as `python -m build` does it, by hatchling, but with the libraries that are installed here."""
    folder = tmp_path_factory.mktemp("wheel")
    words = ["-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run([sys.executable, *words], cwd=ROOT, check=True, capture_output=True, timeout=120)
    (built,) = folder.glob("*.whl")
    return built


def test_a_fresh_environment_runs_it(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path, with_pip=False)
    python = tmp_path / "bin" / "python"
    install = (sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel)
    subprocess.run(install, check=True, capture_output=True, timeout=120)
    for program in "doorward", "knockd", "knock":
        done = subprocess.run([tmp_path / "bin" / program, "--version"], capture_output=True, text=True, check=True)
        assert __version__ in done.stdout
    share = tmp_path / "share"
    assert {path.name for path in (share / "man/man1").iterdir()} >= {f"doorward-{name}.1" for name in COMMANDS}
    for name in ("bash-completion/completions/doorward", "zsh/site-functions/_doorward"):
        assert "open" in (share / name).read_text()
    units = {path.name for path in (share / "doorward/systemd").iterdir()}
    assert units == {path.name for path in (ROOT / "systemd").iterdir()}


def test_it_says_what_it_is(wheel: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == __version__
    with ZipFile(wheel) as file:
        said = message_from_string(file.read(f"doorward-{__version__}.dist-info/METADATA").decode())
        names = set(file.namelist())
        license_beside = file.read("doorward/page/LICENSE")
    assert said["License-Expression"] == "GPL-2.0-or-later AND MIT"
    assert said["Requires-Python"] == ">=3.11"
    assert set(said.get_all("Classifier") or []) == set(project["classifiers"])
    assert set(said.get_all("Provides-Extra") or []) == set(project["optional-dependencies"])
    assert license_beside == (ROOT / "clients/js/LICENSE").read_bytes()
    assert {"doorward/py.typed", f"doorward-{__version__}.dist-info/licenses/LICENSE"} <= names
    assert "doorward/page/doorward.mjs" in names
    assert [name for name in names if name.startswith(("tests/", "manual/", "hatch_build"))] == []
