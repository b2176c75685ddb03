"""The files of signed knocks, where they cannot be read: words for people, and no traceback."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from doorward.config.schema import Signed
from doorward.daemon.key_files import read_authorized_keys, read_private_key, read_server_key
from doorward.errors import UsageError
from doorward.signed.server_key import HYBRID
from tests.support.errors import raises
from tests.support.processes import as_nobody, needs_root
from tests.support.signed import HAS_HYBRID
from tests.support.signed import Signed as KeyFiles


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


@pytest.mark.skipif(not HAS_HYBRID, reason="cryptography is older than 48")
def test_browsers_need_a_key_of_suite_x25519(tmp_path: Path) -> None:
    files = KeyFiles(tmp_path, suite=HYBRID)
    assert read_server_key(Signed(), tmp_path).public == files.server.public
    with raises(UsageError, "browser-needs-x25519"):
        read_server_key(Signed(browser=True), tmp_path)
    files.new_key()
    assert read_server_key(Signed(browser=True), tmp_path).public == files.server.public
