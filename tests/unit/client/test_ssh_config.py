"""The lines for ssh: at the end of the file, once, and nothing else in it is changed."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from doorward.client.ssh_config import edit, host_lines, read, with_host
from doorward.errors import HostError, UsageError
from tests.support.errors import raises

LINES = "Host home\n    ProxyCommand doorward proxy --fdpass %h %p\n    ProxyUseFdpass yes\n"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", LINES),
        ("ForwardAgent no\n", f"ForwardAgent no\n\n{LINES}"),
        ("Host work\n  User me", f"Host work\n  User me\n\n{LINES}"),
        ("# Host home\nHost homework\n", f"# Host home\nHost homework\n\n{LINES}"),
        (LINES, LINES),
        (f"Host *\n  User me\n\n{LINES.rstrip()}", f"Host *\n  User me\n\n{LINES.rstrip()}"),
    ],
)
def test_host_lines_are_appended_once(before: str, after: str) -> None:
    assert with_host(before, "home") == after
    assert with_host(after, "home") == after


@pytest.mark.parametrize("before", ["Host home\n  User me\n", "host=home\n", "  HOST  work home other\n"])
def test_existing_ssh_host_is_preserved(before: str) -> None:
    with raises(UsageError, "ssh-host-exists"):
        with_host(before, "home")


@pytest.mark.parametrize("name", ["*", "web?", "!home", "a b", "-v", 'a"b', "a#b", "%h", "a,b", "host=x", "ü", ""])
def test_ssh_patterns_are_rejected_as_names(name: str) -> None:
    with raises(UsageError, "invalid-ssh-name"):
        with_host("", name)


@pytest.mark.parametrize("name", ["home", "server.example", "192.0.2.7", "2001:db8::7", "web_1-a"])
def test_plain_host_names(name: str) -> None:
    assert with_host("", name) == host_lines(name) == LINES.replace("home", name)


def test_file_is_private_and_preserves_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / ".ssh/config"
    assert read(path) == ""
    edit(path, partial(with_host, name="home"))
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == (LINES, 0o600)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    path.write_bytes(b"# \xff\r\n")
    edit(path, partial(with_host, name="home"))
    assert path.read_bytes() == b"# \xff\r\n\n" + LINES.encode()


def test_owner_and_mode_are_preserved(tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.touch()
    path.chmod(0o640)
    owner = 1000 if os.geteuid() == 0 else os.geteuid()
    os.chown(path, owner, -1)
    edit(path, partial(with_host, name="home"))
    assert (path.stat().st_uid, stat.S_IMODE(path.stat().st_mode)) == (owner, 0o640)


def test_concurrent_editors_lose_nothing(tmp_path: Path) -> None:
    names = [f"home{number}" for number in range(8)]
    with ThreadPoolExecutor(len(names)) as editors:
        for name in names:
            editors.submit(edit, tmp_path / "config", partial(with_host, name=name))
    assert sorted(read(tmp_path / "config").strip().split("\n\n")) == [host_lines(name).strip() for name in names]


def test_symbolic_link_is_preserved(tmp_path: Path) -> None:
    path, real = tmp_path / "config", tmp_path / "dotfiles"
    real.touch()
    path.symlink_to(real)
    edit(path, partial(with_host, name="home"))
    assert path.is_symlink()
    assert real.read_text() == LINES


def test_inaccessible_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with raises(HostError, "unwritable-file"):
        edit(tmp_path / "file" / "config", str.upper)
