from pathlib import Path

import pytest

from doorward.config import files
from doorward.errors import ConfigError, UsageError
from tests.support.errors import raises
from tests.support.processes import without_root

GOOD = '[doors.a]\nopens = ["22/tcp"]\n'


@pytest.mark.parametrize(
    ("folders", "path"),
    [
        (None, "/etc/doorward/doorward.toml"),
        ("", "/etc/doorward/doorward.toml"),
        ("/a", "/a/doorward.toml"),
        ("/a:/b", "/a/doorward.toml"),
    ],
)
def test_default_path(folders: str | None, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CONFIGURATION_DIRECTORY", raising=False)
    if folders is not None:
        monkeypatch.setenv("CONFIGURATION_DIRECTORY", folders)
    assert files.default_path() == Path(path)


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"], ids=["plain", "byte order mark"])
def test_reads(start: bytes, tmp_path: Path) -> None:
    path = tmp_path / "doorward.toml"
    path.write_bytes(start + GOOD.encode())
    assert [door.name for door in files.read(path).doors] == ["a"]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"a = 1\n# \xff", "2: the file is not valid UTF-8; save the file as UTF-8 text"),
        (GOOD.encode("utf-16"), "1: the file is not valid UTF-8; save the file as UTF-8 text"),
        (b"a = 1\n\n\0", "3: a NUL byte is in the file; save the file as UTF-8 text"),
        (b"#" * 2000, "1: the file is larger than 0 MiB; name the right file, or write fewer doors"),
        (b"[gate]\nmode = 1\n", '2: mode: 1 is unknown; write "observe" or "guard" or "stealth"'),
    ],
)
def test_rejects_binary_and_huge_files(
    raw: bytes, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MAX_BYTES", 1000)
    path = tmp_path / "doorward.toml"
    path.write_bytes(raw)
    with pytest.raises(ConfigError) as caught:
        files.read(path)
    assert str(caught.value) == f"{path}:{message}"


def test_missing_file(tmp_path: Path) -> None:
    with raises(UsageError, "no-such-file"):
        files.read(tmp_path / "none.toml")


def test_directory_instead_of_file(tmp_path: Path) -> None:
    with raises(UsageError, "is-a-directory"):
        files.read(tmp_path)


@pytest.mark.parametrize(
    ("path", "code"),
    [("a\0b", "unreadable-file"), ("x" * 5000, "unreadable-file"), ("loop", "unreadable-file")],
)
def test_unreadable_path(path: str, code: str, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with raises(UsageError, code):
        files.read(tmp_path / path)


def test_file_without_read_permission(tmp_path: Path) -> None:
    path = tmp_path / "doorward.toml"
    path.write_text(GOOD)
    path.chmod(0)
    with raises(UsageError, "no-permission"):
        without_root(lambda: files.read(path))
