"""The kept gate's file: whole or not there, and only its owner's."""

from __future__ import annotations

from pathlib import Path

from doorward.daemon import saved_ruleset
from doorward.errors import HostError
from tests.support.errors import raises


def test_what_is_prepared_takes_its_place_when_it_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "gate.nft"
    assert saved_ruleset.prepare(path, "first\n") == ""
    assert not path.exists()
    assert saved_ruleset.commit(path) == ""
    assert saved_ruleset.prepare(path, "second\n") == ""
    assert saved_ruleset.read_saved(path).endswith("at boot.\nfirst\n")
    saved_ruleset.discard(path)
    assert [each.name for each in tmp_path.iterdir()] == ["gate.nft"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_obstacle_is_reported_and_prevents_nothing(tmp_path: Path) -> None:
    missing = tmp_path / "no-such-folder" / "gate.nft"
    assert saved_ruleset.prepare(missing, "") == f"{missing}: No such file or directory"
    assert saved_ruleset.commit(missing) == f"{missing}: No such file or directory"
    with raises(HostError, "ruleset-unreadable"):
        saved_ruleset.read_saved(missing)


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("precious")
    (tmp_path / "gate.nft.new").symlink_to(target)
    assert saved_ruleset.prepare(tmp_path / "gate.nft", "gate") != ""
    assert target.read_text() == "precious"
    assert saved_ruleset.prepare(tmp_path / "gate.nft", "gate") == ""  # the link is gone
