"""`doorward hosts` and `doorward remove`: what the client knows, and what it forgets."""

from __future__ import annotations

from pathlib import Path

import pytest

from doorward.cli.main import main

KEY = "x25519:hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo="
WORK = '[work]\naddress = "192.0.2.7"\n[work.doors]\nweb = ["7000/tcp"]\n'


@pytest.fixture
def hosts_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    """Return a hosts.toml with the hosts work and home; `ssh home` knocks."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    path = tmp_path / "doorward/hosts.toml"
    path.parent.mkdir()
    path.write_text(f"# mine\n{WORK}")
    path.chmod(0o600)
    assert main(["add", "home", "--address", "h.example", "--server-key", KEY, "--door", "ssh", "--ssh"]) == 0
    capsys.readouterr()
    return path


def test_hosts_are_listed(hosts_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["hosts"]) == 0
    assert [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()] == [
        "name address knock doors",
        "home h.example signed knock ssh",
        "work 192.0.2.7 port sequence web",
    ]


def test_without_hosts_it_says_how_to_add_one(hosts_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hosts_file.unlink()
    assert main(["hosts"]) == 0
    assert capsys.readouterr().out.startswith("no server is known; add one with ")


@pytest.mark.parametrize("around", [("", ""), ("Host a\n    User b\n\n", "\nHost c\n    User d\n")])
def test_a_host_is_removed_and_the_rest_is_kept(
    hosts_file: Path, capsys: pytest.CaptureFixture[str], around: tuple[str, str]
) -> None:
    ssh = hosts_file.parents[1] / ".ssh/config"
    before, after = around
    ssh.write_text(before + ssh.read_text() + after)
    old = hosts_file.read_text()
    assert main(["remove", "home"]) == 0
    assert hosts_file.read_text().strip() == f"# mine\n{WORK}".strip()
    assert hosts_file.with_name("hosts.toml.before").read_text() == old
    assert ssh.read_text() == before.removesuffix("\n") + after if before else ssh.read_text() == after
    assert "`ssh home` no longer knocks" in capsys.readouterr().out


def test_foreign_lines_of_ssh_stay(hosts_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ssh = hosts_file.parents[1] / ".ssh/config"
    ssh.write_text(text := ssh.read_text() + "    User ada\n")
    assert main(["remove", "home"]) == 0
    assert ssh.read_text() == text
    assert "no longer" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["hom", "elsewhere"])
def test_an_unknown_host_changes_nothing(hosts_file: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    old = hosts_file.read_bytes()
    assert main(["remove", name]) == 2
    assert f"no host {name!r}" in capsys.readouterr().err
    assert hosts_file.read_bytes() == old


def test_a_form_that_cannot_be_removed(hosts_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hosts_file.write_text(f'inline = {{ address = "h.example", server_key = "{KEY}" }}\n{WORK}')
    old = hosts_file.read_bytes()
    assert main(["remove", "inline"]) == 2
    assert "edit the file" in capsys.readouterr().err
    assert hosts_file.read_bytes() == old
