"""The files of signed knocks, where they cannot be read: words for people, and no traceback."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from doorward.daemon.key_files import read_authorized_keys, read_private_key
from doorward.errors import UsageError
from tests.support.errors import raises
from tests.support.processes import as_nobody, needs_root


@needs_root
@pytest.mark.parametrize("read", [read_private_key, read_authorized_keys])
def test_directory_without_permission_is_reported(read: Callable[[Path], object], tmp_path: Path) -> None:
    folder = tmp_path / "secret"
    folder.mkdir(0o700)
    with raises(UsageError, "no-permission"):
        as_nobody(lambda: read(folder / "file"))


@pytest.mark.parametrize(
    ("read", "code"), [(read_private_key, "no-server-key"), (read_authorized_keys, "no-authorized-keys")]
)
def test_a_missing_file_is_reported(read: Callable[[Path], object], code: str, tmp_path: Path) -> None:
    with raises(UsageError, code):
        read(tmp_path / "file")
