"""docs/install.md and what else is put into the system's folders, typed in a clone: those folders are a test's own."""

from __future__ import annotations

import re
import shutil
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from doorward.lab.topology import Lab
from tests.support.consoles import Console
from tests.support.docs_session import DocsSession, docs_session
from tests.support.documents import ROOT
from tests.support.service_user import GROUP

pytestmark = pytest.mark.netns(
    "nft", "useradd", "systemd-sysusers", "systemd-tmpfiles", "systemctl", "ssh", "/usr/sbin/sshd", "unshare"
)


def found(name: str) -> str:
    path = shutil.which(name)
    assert path is not None
    return path


@pytest.fixture
def session(lab: Lab) -> Iterator[DocsSession]:
    with docs_session(lab) as session:
        system = session.folder / "system"
        for folder in ("etc/systemd/system", "usr/lib/sysusers.d", "usr/lib/tmpfiles.d", "usr/local/libexec"):
            (system / folder).mkdir(parents=True)
        for name in ("passwd", "group", "shadow", "gshadow"):
            (system / "etc" / name).touch()
        paths = ("/usr/lib/", "/usr/local/", "/etc/systemd/")
        session.swaps |= {path: f"{system}{path}" for path in paths}
        session.swaps |= {f" {folder}/": f" {ROOT}/{folder}/" for folder in ("systemd", "contrib")}
        for name in ("systemctl", "systemd-sysusers", "systemd-tmpfiles"):
            session.program(name, found(name), f"--root={system}")
        session.program("useradd", found("useradd"), "--prefix", system)
        yield session


def modes(folder: Path) -> dict[str, tuple[int, int]]:
    """Give mode and group of what is in a folder."""
    return {path.name: (stat.S_IMODE(path.stat().st_mode), path.stat().st_gid) for path in folder.iterdir()}


@pytest.mark.console("docs/install.md", "The user and the directories")
def test_the_user_and_the_folders(session: DocsSession, console: Console) -> None:
    system = session.folder / "system"
    sysusers, tmpfiles, useradd, install = console
    session.compare(sysusers)
    users = (system / "etc/passwd").read_text()
    user = re.search(r"^doorward:x:\d+:(\d+):doorward, port knocking:/:\S*nologin$", users, re.MULTILINE)
    assert user
    assert re.search(r"^doorward-metrics:x:\d+:doorward$", (system / "etc/group").read_text(), re.MULTILINE)
    session.compare(tmpfiles)
    group = int(user[1])
    assert modes(system / "etc")["doorward"] == (0o750, group)
    assert modes(system / "var/lib")["doorward"] == (0o700, group)
    for name in ("passwd", "group", "shadow", "gshadow"):  # as a system without systemd is
        (system / "etc" / name).write_text("")
    session.compare(useradd)
    assert "doorward" in (system / "etc/passwd").read_text()
    session.compare(install)
    folder = session.daemon.config.parent
    assert modes(folder.parent)[folder.name] == (0o750, GROUP)


@pytest.mark.console("docs/install.md", "The configuration")
def test_the_configuration(session: DocsSession, console: Console) -> None:
    session.program("editor", sys.executable, "-c", "import sys; print('# edited', file=open(sys.argv[1], 'a'))")
    folder = session.daemon.config.parent
    asked = session.answer(next(console), "", "")
    assert "wrote /etc/doorward/doorward.toml: mode guard, doors ssh=22/tcp" in asked
    assert set(modes(folder).values()) == {(0o640, GROUP)}
    session.daemon.config.chmod(0o600)
    for call in console:
        printed = session.compare(call)
    assert modes(folder)["doorward.toml"] == (0o640, GROUP)
    assert session.daemon.config.read_text().endswith("# edited\n")
    assert ": good: 1 door, mode guard" in printed


@pytest.mark.console("docs/install.md", "The first start")
def test_the_units(session: DocsSession, console: Console) -> None:
    (call,) = console
    session.compare(call)
    there = {path.name for path in (session.folder / "system/etc/systemd/system").iterdir()}
    assert there == {"doorward.service", "doorward-gate.service"}


@pytest.mark.console("docs/operations.md", "From boot on")
def test_from_boot_on(session: DocsSession, console: Console) -> None:
    (call,) = console
    units = session.folder / "system/etc/systemd/system"
    for unit in ("doorward.service", "doorward-gate.service"):
        shutil.copy(ROOT / "systemd" / unit, units)
    session.compare(call)
    assert {path.name for path in units.glob("*.wants/*")} == {"doorward.service", "doorward-gate.service"}


@pytest.mark.console("docs/hooks.md")
def test_hooks(session: DocsSession, console: Console) -> None:
    """What they do then is held by test_docs_hooks.py."""
    session.program(
        "editor", sys.executable, "-c", "import sys; print('https://example/', file=open(sys.argv[1], 'a'))"
    )
    for call in console:
        session.compare(call)
    hooks = modes(session.folder / "system/usr/local/libexec")
    assert {name: mode for name, (mode, _) in hooks.items()} == {"doorward-mail": 0o755, "doorward-webhook": 0o755}
    webhook = session.daemon.config.with_name("webhook")
    assert (webhook.read_text(), modes(webhook.parent)["webhook"]) == ("https://example/\n", (0o640, GROUP))
