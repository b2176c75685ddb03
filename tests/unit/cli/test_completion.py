"""`doorward completion`: the scripts of three shells, and the names that they complete."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from doorward.cli.completion import SHELLS, whole_parser
from doorward.cli.main import COMMANDS, main
from doorward.libraries import install_command

CONFIGURATION = '[doors.ssh]\nopens = ["22/tcp"]\n\n[doors.web]\nopens = ["443/tcp"]\n'
HOSTS = '[home]\naddress = "192.0.2.7"\n\n["$(touch caught)"]\naddress = "192.0.2.8"\n'


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONFIGURATION_DIRECTORY", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))


def write(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o600)


@pytest.mark.parametrize("shell", SHELLS)
def test_script_contains_every_command(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert [name for name in COMMANDS if name not in out] == []


def test_whole_parser_has_every_command() -> None:
    parser = whole_parser(lambda _: None)
    assert parser.parse_args(["open", "ssh", "192.0.2.7", "--for", "10m"]).door == "ssh"
    asked = []
    whole_parser(lambda action: asked.append(action.dest))
    assert {"config", "door", "host"} <= set(asked)


def test_doors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "doorward.toml", CONFIGURATION)
    assert main(["completion", "doors"]) == 0
    assert capsys.readouterr() == ("ssh\nweb\n", "")


def test_hosts_whose_names_bash_would_not_expand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "doorward/hosts.toml", HOSTS)
    assert main(["completion", "hosts"]) == 0
    assert capsys.readouterr() == ("home\n", "")


@pytest.mark.parametrize("what", ["doors", "hosts"])
@pytest.mark.parametrize("text", [None, "what?", "[doors.ssh"])
def test_invalid_file_completes_nothing_silently(
    what: str, text: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if text is not None:
        write(tmp_path / "doorward.toml", text)
        write(tmp_path / "doorward/hosts.toml", text)
    assert main(["completion", what]) == 0
    assert capsys.readouterr() == ("", "")


def test_without_shtab(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)  # Python's own sign for a module that cannot be imported
    assert main(["completion", "fish"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert f"`{install_command('shtab')}`" in err


def test_with_a_shtab_that_does_not_know_the_shell(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("shtab.SUPPORTED_SHELLS", ["bash", "zsh"])  # those of Debian 12
    assert main(["completion", "fish"]) == 2
    assert "shtab does not support fish" in capsys.readouterr().err
