"""`doorward confirm` and `apply` by root, while a compromised daemon user tries to choose the file."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import NamedTuple

import pytest

from doorward.cli.main import main
from tests.support.impostor import impostor
from tests.support.processes import NOBODY, needs_root

pytestmark = needs_root

ROUNDS = 20  # of each command; where the daemon chose the file, one or two disclosed the secret
OLD = '[doors.ssh]\nknock = ["7001/tcp", "7002/tcp", "7003/tcp"]\nopens = ["22/tcp"]\n'
NEW = OLD.replace("7003", "7009")
SECRET = "of root alone\n"  # noqa: S105 - no password


class Place(NamedTuple):
    """The directories: root's configuration, the daemon user's runtime directory, and a neutral one."""

    config: Path
    runtime: Path
    secret: Path
    new: Path

    def named(self) -> Path:
        """Return the file that the impostor says it runs with."""
        return self.runtime / "doorward.toml"

    def answers(self, config: Path, digest: str | None) -> dict[str, dict[str, object]]:
        status: dict[str, object] = {"config": str(config), "trial": digest and {"left_s": 60, "digest": digest}}
        done: dict[str, object] = {"summary": "1 door, mode guard", "left_s": 60}
        return {"status": status, "apply": done, "confirm": done, "reload_hooks": {}}

    def swap(self) -> None:
        """Let each name be a file of the user's own, then a link to the secret, and so on."""
        for name in ("doorward.toml", "doorward.toml.new"):
            for step in (self._own, self._link):
                step(self.runtime / f"{name}.{os.getpid()}")
                with suppress(OSError):
                    (self.runtime / f"{name}.{os.getpid()}").replace(self.runtime / name)

    def _own(self, path: Path) -> None:
        path.write_text(NEW)
        path.chmod(0o644)

    def _link(self, path: Path) -> None:
        path.symlink_to(self.secret)

    def disclosed(self) -> list[str]:
        """List the files of the user's directory that hold the secret; names come and go meanwhile."""
        found = []
        for name in os.listdir(self.runtime):  # noqa: PTH208
            with suppress(OSError):
                handle = os.open(self.runtime / name, os.O_RDONLY | os.O_NOFOLLOW)
                with os.fdopen(handle) as file:
                    found += [name] if file.read() == SECRET else []
        return found


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    with tempfile.TemporaryDirectory(prefix="doorward-") as name:  # short, for a socket's path has 107 bytes
        folder = Path(name)
        folder.chmod(0o755)
        place = Place(folder / "etc/doorward.toml", folder / "run", folder / "secret", folder / "new.toml")
        for path in (place.config.parent, place.runtime):
            path.mkdir()
        os.chown(place.runtime, NOBODY, NOBODY)
        for path, text in ((place.config, OLD), (place.secret, SECRET), (place.new, NEW)):
            path.write_text(text)
            path.chmod(0o600)
        monkeypatch.setenv("CONFIGURATION_DIRECTORY", str(place.config.parent))
        monkeypatch.setenv("RUNTIME_DIRECTORY", str(place.runtime))
        monkeypatch.delenv("SUDO_UID", raising=False)
        monkeypatch.delenv("SSH_CONNECTION", raising=False)
        yield place


def digest_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize("command", ["confirm", "apply"])
def test_swapped_links_disclose_nothing(place: Place, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    digest = digest_of(NEW) if command == "confirm" else None
    words = [command] if command == "confirm" else [command, str(place.new)]
    with impostor(place.runtime / "control.sock", place.answers(place.named(), digest), place.swap):
        for _ in range(ROUNDS):
            status, said = main(words), capsys.readouterr().err
            assert place.disclosed() == []
            assert (status, str(place.config) in said, str(place.named()) in said) == (2, True, True)
    assert (place.secret.read_text(), place.config.read_text()) == (SECRET, OLD)
    assert {path.name for path in place.config.parent.iterdir()} == {"doorward.toml"}


def test_daemon_cannot_choose_replaced_file(place: Place) -> None:
    (place.secret.with_name("secret.new")).write_text(NEW)
    for words, digest in ((["apply", str(place.new)], None), (["confirm"], digest_of(NEW))):
        (place.runtime / "control.sock").unlink(missing_ok=True)
        with impostor(place.runtime / "control.sock", place.answers(place.secret, digest)):
            assert main(words) == 2
    assert place.secret.read_text() == SECRET


def test_daemon_directory_is_rejected_even_if_named(place: Place) -> None:
    """Nor through a directory that is a link, which the daemon's user can redirect."""
    (place.runtime / "etc").symlink_to(place.config.parent)
    for number, config in zip(count(), (place.named(), place.runtime / "etc/doorward.toml"), strict=False):
        for words, digest in ((["apply", str(place.new)], None), (["confirm"], digest_of(NEW))):
            (place.runtime / "control.sock").unlink(missing_ok=True)
            with impostor(place.runtime / "control.sock", place.answers(config, digest), place.swap):
                assert main([*words, "-c", str(config)]) == 2, number
            assert place.disclosed() == []
    assert (place.secret.read_text(), place.config.read_text()) == (SECRET, OLD)
    assert {path.name for path in place.config.parent.iterdir()} == {"doorward.toml"}


def test_same_file_is_installed(place: Place) -> None:
    """The answering process does not matter then: root installs what root prepared."""
    with impostor(place.runtime / "control.sock", place.answers(place.config, None)):
        assert main(["apply", str(place.new)]) == 0
    assert place.config.read_text() == NEW


def test_socket_of_another_user_is_not_queried(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    os.chown(place.runtime, 0, 0)
    place.runtime.chmod(0o777)  # as someone has left it
    with impostor(place.runtime / "control.sock", place.answers(place.config, None)):
        for words in (["status"], ["apply", str(place.new)]):
            assert main(words) == 2
            assert f"user {NOBODY} listens here" in capsys.readouterr().err
    assert place.config.read_text() == OLD


@pytest.mark.parametrize("words", [["status"], ["confirm"], ["apply", "{new}"], ["ban"]])
def test_empty_answer_is_one_clear_error(place: Place, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with impostor(place.runtime / "control.sock", {"status": {}, "bans": {}}):
        assert main([word.format(new=place.new) for word in words]) == 2
    line = capsys.readouterr().err.splitlines()[-1]  # `apply` prints warnings before it
    assert line.startswith("doorward: the daemon's answer has no '")
