"""Files are written completely, with the right owner, and never overwritten; valid keys are copied."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from doorward.config.schema import Configuration, Gate, Signed
from doorward.errors import ConfigError, HostError, UsageError
from doorward.init import install
from doorward.init.install import first_keys, read_keys
from doorward.kernel import atomic_file
from doorward.signed.server_key import parse_private_key
from tests.support.errors import raises
from tests.support.signed import Signer

SIGNED = Configuration(Gate(), (), Signed())


def mode(path: Path) -> str:
    return oct(stat.S_IMODE(path.stat().st_mode))


def test_existing_file_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "a/b/file"
    assert install.write(path, "first ä\n")
    assert not install.write(path, "second\n")
    assert path.read_text(encoding="utf-8") == "first ä\n"
    assert [each.name for each in path.parent.iterdir()] == ["file"]
    access = install.file_ownership()
    assert mode(path.parent) == oct(access.mode | (access.mode & 0o440) >> 2)  # who may read may pass
    assert (path.stat().st_uid, path.stat().st_gid) == (access.user, access.group)
    assert mode(path) == oct(access.mode)


def test_mode_is_independent_of_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        assert atomic_file.create(tmp_path / "file", "x", atomic_file.FileOwnership(0o640, os.geteuid(), os.getegid()))
    finally:
        os.umask(before)
    assert mode(tmp_path / "file") == "0o640"


def test_write_error_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with raises(HostError, "unwritable-file"):
        install.write(tmp_path / "file/doorward.toml", "x")


def test_missing_signed_knock_files_are_written(tmp_path: Path) -> None:
    key, who = tmp_path / "server.key", tmp_path / "authorized_keys"
    assert install.write_signed(Configuration(Gate(), ()), tmp_path, "") == []
    assert install.write_signed(SIGNED, tmp_path, "# nobody\n") == [key, who]
    text = key.read_text()
    assert install.write_signed(SIGNED, tmp_path, "# somebody else\n") == []
    assert (key.read_text(), who.read_text()) == (text, "# nobody\n")
    who.unlink()
    assert install.write_signed(SIGNED, tmp_path, "# again\n") == [who]
    assert key.read_text() == text


def test_server_key_is_returned_if_any_key_is_authorized(tmp_path: Path) -> None:
    install.write_signed(SIGNED, tmp_path, "# nobody\n")
    assert install.authorized_key_line(SIGNED, tmp_path) is None
    (tmp_path / "authorized_keys").write_text(f"{Signer().line}\n")
    public = parse_private_key((tmp_path / "server.key").read_text()).public
    assert install.authorized_key_line(SIGNED, tmp_path) == str(public)
    assert install.authorized_key_line(Configuration(Gate(), ()), tmp_path) is None


def test_valid_keys_are_copied_verbatim(tmp_path: Path) -> None:
    good = f'restrict,from="192.0.2.0/24" {Signer("laptop").line}'
    path = tmp_path / "authorized_keys"
    path.write_text(f"# mine\n  {good}  \nssh-dss AAAA old\n\n{Signer('desk').line}\n{good}\n")
    found = read_keys(path)
    assert found.lines[0] == good
    assert len(found.lines) == 2
    assert [fault.line for fault in found.faults] == [3, 6]
    (tmp_path / "copy").write_text(found.text)
    assert read_keys(tmp_path / "copy").lines == found.lines
    assert read_keys(tmp_path / "copy").faults == ()


def test_first_file_with_a_key_is_used(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("missing", "empty", "open", "good", "better")]
    for path, text in zip(paths[1:], ("# none\n", Signer("a").line, Signer("b").line, Signer("c").line), strict=True):
        path.write_text(text)
        path.chmod(0o600)
    (tmp_path / "open").chmod(0o666)  # anyone who can write it chooses who gets in
    found = first_keys(paths)
    assert found is not None
    assert found.path == tmp_path / "good"
    assert first_keys(paths[:3]) is None
    with raises(UsageError, "no-such-file"):
        read_keys(paths[0])
    with raises(ConfigError, "writable-by-others"):
        read_keys(tmp_path / "open")
