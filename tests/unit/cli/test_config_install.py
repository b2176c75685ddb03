"""Replacing a configuration atomically."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from doorward.cli.config_install import Installation
from doorward.errors import HostError, UsageError
from tests.support.errors import raises
from tests.support.processes import NOBODY, as_nobody, needs_root

DIGEST = hashlib.sha256(b"new\n").hexdigest()


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "doorward.toml"
    path.write_text("old\n")
    return path


def files(config: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in config.parent.iterdir()}


def test_replaces_file_and_keeps_backup(config: Path) -> None:
    config.chmod(0o640)
    installation = Installation(config)
    installation.prepare("new\n")
    assert files(config) == {"doorward.toml": "old\n", "doorward.toml.new": "new\n"}
    installation.check(DIGEST)
    installation.finish()
    assert files(config) == {"doorward.toml": "new\n", "doorward.toml.before": "old\n"}
    assert {path.stat().st_mode & 0o777 for path in config.parent.iterdir()} == {0o640}


def test_installs_first_configuration(tmp_path: Path) -> None:
    config = tmp_path / "doorward.toml"
    installation = Installation(config)
    installation.prepare("new\n")
    installation.finish()
    assert files(config) == {"doorward.toml": "new\n"}
    assert config.stat().st_mode & 0o777 == 0o600


@needs_root
def test_owner_is_preserved(config: Path) -> None:
    os.chown(config, 0, NOBODY)
    installation = Installation(config)
    installation.prepare("new\n")
    installation.finish()
    assert {(path.stat().st_uid, path.stat().st_gid) for path in config.parent.iterdir()} == {(0, NOBODY)}


def test_modified_file_is_not_installed(config: Path) -> None:
    installation = Installation(config)
    installation.prepare("new\n")
    installation.new.write_text("other\n")
    with raises(UsageError, "trial-file-changed"):
        installation.check(DIGEST)
    installation.discard()
    with pytest.raises(HostError, match=r"doorward.toml.new: No such file"):
        installation.check(DIGEST)


def test_symbolic_link_is_not_followed(config: Path) -> None:
    target = config.with_name("target")
    config.rename(target)
    config.symlink_to(target)
    with raises(HostError, "symbolic-link"):
        Installation(config).prepare("new\n")
    assert files(config) == {"doorward.toml": "old\n", "target": "old\n"}
    config.unlink()
    target.rename(config)
    installation = Installation(config)
    installation.new.symlink_to(config)
    with raises(HostError, "symbolic-link"):
        installation.check(DIGEST)
    installation.prepare("new\n")  # in the place of the link
    installation.check(DIGEST)


def test_file_writable_by_others_is_rejected(config: Path) -> None:
    installation = Installation(config)
    installation.prepare("new\n")
    installation.new.chmod(0o666)
    with raises(HostError, "writable-by-others"):
        installation.check(DIGEST)
    installation.new.unlink()
    os.mkfifo(installation.new)
    with raises(HostError, "not-regular-file"):
        installation.check(DIGEST)
    config.chmod(0o666)
    with raises(HostError, "writable-by-others"):
        installation.prepare("new\n")
    config.parent.chmod(0o777)
    with pytest.raises(HostError, match=f"chmod go-w {config.parent}`"):
        Installation(config)


@needs_root
def test_missing_permission_is_reported_before_confirming(config: Path) -> None:
    for folder in (config.parent, *config.parent.parents):
        if folder.stat().st_uid == os.geteuid() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o055)
    installation = Installation(config)
    with raises(HostError, "unwritable-file"):
        as_nobody(lambda: installation.prepare("new\n"))
    installation.prepare("new\n")
    installation.new.chmod(0o644)
    with raises(HostError, "no-permission"):
        as_nobody(lambda: installation.check(DIGEST))
