"""Whatever makes `doorward run` refuse a file on this host makes `doorward check` fail."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from doorward.cli.main import main
from doorward.daemon import host_lookups
from doorward.daemon.ruleset_loader import LoadProcess, load_file
from doorward.errors import DoorwardError
from doorward.kernel import privileges
from tests.support.processes import own_namespace
from tests.support.signed import Signed, Signer

pytestmark = pytest.mark.netns("nft")

GOOD = """\
[gate]
mode = "stealth"
name = "here"
{gate}
[signed]
[doors.ssh]
opens = ["22/tcp"]
{more}
"""
FLEET = '[fleet]\nname = "f"\nendpoints = ["http://127.0.0.1:2379"]\nplain = true\n'


class Site:
    """A good configuration with its files, and a state directory."""

    def __init__(self, folder: Path) -> None:
        self.config, self.state = folder / "configuration/doorward.toml", folder / "state"
        self.state.mkdir()
        self.signed = Signed(self.config.parent, Signer())
        self.write()

    def write(self, gate: str = "", more: str = "") -> None:
        self.config.write_text(GOOD.format(gate=gate, more=more))

    def is_loaded(self) -> bool:
        """Return whether the daemon's child loads it."""
        child = LoadProcess(lambda: load_file(self.config, {}, self.state / "gate.nft"))
        try:
            child.result()
        except DoorwardError:
            return False
        return True


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))
    return Site(tmp_path)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda site: site.write('control_group = "nosuchgroup"'), 4),
        (lambda site: site.signed.key_file.unlink(), 5),
        (lambda site: site.signed.key_file.chmod(0o644), 5),
        (lambda site: site.signed.key_file.write_text("none"), 5),
        (lambda site: site.signed.keys_file.unlink(), 5),
        (lambda site: site.signed.keys_file.chmod(0o666), 1),
        (lambda site: site.config.chmod(0o666), 1),
        (lambda site: site.write(more=f'{FLEET}user = "u"\npassword = "missing"'), 8),
        (lambda site: site.write(more=FLEET.replace("http:", "https:") + 'ca = "missing"'), 8),
    ],
)
def test_the_check_and_the_daemon_refuse_the_same(
    site: Site, change: Callable[[Site], object], line: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with own_namespace():
        assert site.is_loaded()
        assert main(["check", "-c", str(site.config)]) == 0
        change(site)
        assert not site.is_loaded()
        capsys.readouterr()
        assert main(["check", "-c", str(site.config), "--json"]) == 2
    (fault,) = json.loads(capsys.readouterr().out)["faults"]
    assert fault["line"] == line
    assert fault["what"]
    assert fault["instead"]


@pytest.mark.parametrize(("has_unit", "status"), [(True, 2), (False, 0)])
def test_a_file_that_the_units_user_cannot_read(
    site: Site, has_unit: bool, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the unit starts it, the daemon refuses; started by root, it stays root."""
    monkeypatch.setattr(host_lookups, "runs_as_unit", lambda: has_unit)
    monkeypatch.setattr(host_lookups, "unreadable", lambda paths: ("doorward", paths[-1:]))
    assert main(["check", "-c", str(site.config)]) == status
    assert f"the user doorward cannot read {site.signed.keys_file}" in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_files_are_read_with_the_rights_of_that_user(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = privileges.Identity("nobody", 65534, 65534, (65534,))
    monkeypatch.setattr(privileges, "service_identity", lambda: nobody)
    site.signed.key_file.chmod(0o600)
    assert host_lookups.unreadable([Path("/etc/passwd"), site.signed.key_file]) == ("nobody", [site.signed.key_file])


def test_hooks_and_interfaces_that_are_not_there_are_warnings(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = tmp_path / "plain"
    plain.write_text("no program")
    gate = f'interfaces = ["lo*", "nosuch0", "wg*"]\non_refuse = ["{plain}", "%ip% %REASON%", "%DOOR%"]'
    door = (
        'on_open = ["/bin/sh", "-c", "date +%H%M%S; echo %IP% a%C3%A4b"]\n'
        'on_close = ["/nosuch/program", "%REASON%", "%Ip%"]'
    )
    site.write(gate, door)
    assert main(["check", "-c", str(site.config), "--json"]) == 0
    warnings = json.loads(capsys.readouterr().out)["warnings"]
    found = [(each["line"], each["what"]) for each in warnings if each["level"] == "warning"]
    words = ("'nosuch0'", "'wg*'", f"{plain} is not an executable file", "%ip%", "%DOOR%")
    more = ("/nosuch/program does not exist", "%REASON%", "%Ip%")
    assert len(found) == len(words) + len(more), found
    for word, (line, what) in zip((*words, *more), found, strict=True):
        assert word in what, (word, what)
        assert line in (4, 5) if word in words else line == 10
