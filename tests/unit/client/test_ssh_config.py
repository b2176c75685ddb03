"""The lines for ssh: at the end of the file, once, and nothing else in it is changed."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from doorward.client.ssh_config import host_lines, read, save, with_host
from doorward.errors import HostError, UsageError

LINES = "Host home\n    ProxyCommand doorward proxy %h %p\n"


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
def test_at_the_end_and_once(before: str, after: str) -> None:
    assert with_host(before, "home") == after
    assert with_host(after, "home") == after


@pytest.mark.parametrize("before", ["Host home\n  User me\n", "host=home\n", "  HOST  work home other\n"])
def test_a_host_that_is_there_is_the_users(before: str) -> None:
    with pytest.raises(UsageError, match=r"already has a Host home; .* ProxyCommand doorward proxy %h %p"):
        with_host(before, "home")


@pytest.mark.parametrize("name", ["*", "web?", "!home", "a b", "-v", 'a"b', "a#b", "%h", "a,b", "host=x", "ü", ""])
def test_a_name_that_is_more_to_ssh_than_a_name(name: str) -> None:
    with pytest.raises(UsageError, match="is not a plain host name for ssh"):
        with_host("", name)


@pytest.mark.parametrize("name", ["home", "server.example", "192.0.2.7", "2001:db8::7", "web_1-a"])
def test_names_that_ssh_takes_as_they_are(name: str) -> None:
    assert with_host("", name) == host_lines(name) == LINES.replace("home", name)


def test_the_file_is_the_users_alone_and_keeps_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / ".ssh/config"
    assert read(path) == ""
    save(path, with_host(read(path), "home"))
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == (LINES, 0o600)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    path.write_bytes(b"# \xff\r\n")
    save(path, with_host(read(path), "home"))
    assert path.read_bytes() == b"# \xff\r\n\n" + LINES.encode()


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    path, real = tmp_path / "config", tmp_path / "dotfiles"
    real.touch()
    path.symlink_to(real)
    save(path, LINES)
    assert path.is_symlink()
    assert real.read_text() == LINES


def test_a_file_that_cannot_be_reached(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HostError, match="make it writable for yourself"):
        save(tmp_path / "file" / "config", LINES)
