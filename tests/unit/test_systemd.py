"""The units: systemd understands every line, and the daemon's sandbox is as tight as promised."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from doorward.daemon import off_switch
from doorward.daemon.control_socket import METRICS_USER
from tests.conftest import unavailable

FOLDER = Path(__file__).parents[2] / "systemd"
CONTRIB = FOLDER.with_name("contrib") / "systemd"
MOST_EXPOSED = 20  # tenths, of 100


def analyze(*words: object) -> subprocess.CompletedProcess[str]:
    if shutil.which("systemd-analyze") is None:
        unavailable("systemd-analyze is missing; install the package systemd")
    return subprocess.run(["systemd-analyze", *map(str, words)], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "path", [*sorted(FOLDER.glob("*.service")), *sorted(CONTRIB.glob("*.service"))], ids=lambda path: path.name
)
def test_systemd_understands_every_line(path: Path, tmp_path: Path) -> None:
    text, unit = path.read_text(), path.name.replace("@", "@home")
    for program in ("doorward", "knockd", "nft"):  # whatever is or is not installed here
        text = re.sub(rf"=([-+]*){program} ", rf"=\1{sys.executable} ", text)
    (tmp_path / unit).write_text(text)
    done = analyze("verify", "--man=no", tmp_path / unit)
    assert (done.returncode, [line for line in done.stderr.splitlines() if unit in line]) == (0, [])


def test_no_program_of_the_unit_can_listen_for_tcp() -> None:
    lines = (FOLDER / "doorward.service").read_text().splitlines()
    assert [line for line in lines if line.startswith("SocketBind")] == ["SocketBindAllow=udp", "SocketBindDeny=any"]


@pytest.mark.parametrize("unit", ["doorward.service", "doorward-metrics.service"])
def test_a_process_that_stays_is_hardly_exposed(unit: str) -> None:
    words = ("security", "--offline=true", f"--threshold={MOST_EXPOSED}")
    done = analyze(*words, FOLDER / unit)
    assert done.returncode == 0, done.stdout
    loose = analyze("security", "--offline=true", "--threshold=1", FOLDER / unit)
    assert loose.returncode != 0  # it can fail


def test_only_what_the_daemon_needs_is_let_through() -> None:
    done = analyze("security", "--offline=true", "--json=short", FOLDER / "doorward.service")
    open_to = {row["name"] for row in json.loads(done.stdout) if row["set"] is False}
    assert {name for name in open_to if name.startswith("CapabilityBoundingSet=")} == {
        "CapabilityBoundingSet=~CAP_BPF",  # for the loader of the shield
        "CapabilityBoundingSet=~CAP_NET_ADMIN",
        "CapabilityBoundingSet=~CAP_NET_(BIND_SERVICE|BROADCAST|RAW)",  # the first, for the confirmation's ports
    }
    assert {name for name in open_to if name.startswith("SystemCallFilter=")} == {"SystemCallFilter=~@privileged"}


def test_what_keeps_the_gate_away_and_the_daemon_there() -> None:
    """Both units look for the file of `doorward off`, and systemd never gives up starting the daemon."""
    texts = {name: (FOLDER / name).read_text().splitlines() for name in ("doorward.service", "doorward-gate.service")}
    for lines in texts.values():
        assert f"ConditionPathExists=!%E/doorward/{off_switch.NAME}" in lines
    daemon = texts["doorward.service"]
    assert {"StartLimitIntervalSec=0", "Restart=on-failure", "ExecStartPost=-+doorward check --keep"} <= set(daemon)
    assert daemon.index("StartLimitIntervalSec=0") < daemon.index("[Service]")
    reloads = [line for line in daemon if line.startswith("ExecReload=")]
    assert reloads == ["ExecReload=kill -HUP $MAINPID", "ExecReload=-+doorward check --keep"]


def test_the_user_is_made() -> None:
    words = [line.split() for line in (FOLDER / "doorward.sysusers.conf").read_text().splitlines() if line[0] != "#"]
    assert [row[:3] for row in words] == [
        ["u", "doorward", "-"],
        ["u", METRICS_USER, "-"],
        ["m", "doorward", METRICS_USER],  # so that the daemon may give its control socket to that group
    ]


def test_each_unit_has_the_user_that_it_needs() -> None:
    users = {
        path.name: next((line for line in path.read_text().splitlines() if line.startswith("User=")), "User=root")
        for path in FOLDER.glob("*.service")
    }
    assert users == {
        "doorward.service": "User=doorward",
        "doorward-gate.service": "User=doorward",
        "doorward-metrics.service": f"User={METRICS_USER}",
        "doorward-knockd.service": "User=root",
    }


def test_the_removal_of_a_package_ends_each_of_its_units() -> None:
    """debhelper leaves that to the scripts where it is not to start a unit (--no-start)."""
    folder = FOLDER.with_name("debian")
    units = re.findall(r"dh_installsystemd -p(\S+) --name=(\S+) .*--no-start", (folder / "rules").read_text())
    assert len(units) == 4
    for package, unit in units:
        (stop,) = re.findall("deb-systemd-invoke stop (.*?) >", (folder / f"{package}.prerm").read_text())
        assert f"{unit}.service" in stop.split()


def test_root_shares_no_directory_with_the_daemon() -> None:
    folders = {
        path.name: {line for line in path.read_text().splitlines() if line.startswith("StateDirectory=")}
        for path in FOLDER.glob("*.service")
    }
    assert folders["doorward-knockd.service"].isdisjoint(folders["doorward.service"])


def test_folders_are_made_as_the_unit_makes_them() -> None:
    rows = [line.split() for line in (FOLDER / "doorward.tmpfiles.conf").read_text().splitlines() if line[0] != "#"]
    unit = (FOLDER / "doorward.service").read_text().splitlines()
    modes = {row[1]: row[2].lstrip(":") for row in rows}
    assert f"ConfigurationDirectoryMode={modes['/etc/doorward']}" in unit
    assert f"StateDirectoryMode={modes['/var/lib/doorward']}" in unit
    assert [row[3].lstrip(":") for row in rows] == ["root", "doorward"]  # nobody but root may say who gets in
