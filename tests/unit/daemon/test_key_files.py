"""The files of signed knocks, where they cannot be read: words for people, and no traceback."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from doorward.daemon.key_files import read_authorized_keys, read_private_key
from doorward.errors import UsageError
from tests.support.processes import as_nobody, needs_root


@needs_root
@pytest.mark.parametrize("read", [read_private_key, read_authorized_keys])
def test_a_folder_that_may_not_be_entered_is_told(read: Callable[[Path], object], tmp_path: Path) -> None:
    folder = tmp_path / "secret"
    folder.mkdir(0o700)
    with pytest.raises(UsageError, match="permission denied"):
        as_nobody(lambda: read(folder / "file"))


@pytest.mark.parametrize("read", [read_private_key, read_authorized_keys])
def test_a_file_that_is_not_there_is_told(read: Callable[[Path], object], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no s(erver's key|uch file)"):
        read(tmp_path / "file")
