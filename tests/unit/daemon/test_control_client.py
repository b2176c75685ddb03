"""Asking the daemon: where, and what a process that is not the daemon may answer."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from doorward.daemon import control_client
from doorward.daemon.control_client import ask, default_path
from doorward.errors import UsageError
from tests.support.errors import raises


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        (None, "/run/doorward/control.sock"),
        ("", "/run/doorward/control.sock"),
        ("/run/mine", "/run/mine/control.sock"),
        ("/run/mine:/run/other", "/run/mine/control.sock"),
    ],
)
def test_path_is_in_the_runtime_directory(monkeypatch: pytest.MonkeyPatch, folders: str | None, expected: str) -> None:
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    if folders is not None:
        monkeypatch.setenv("RUNTIME_DIRECTORY", folders)
    assert str(default_path()) == expected


@pytest.mark.parametrize("answer", [b"{\n", b"[]\n", b"7\n", b"[" * 60_000 + b"\n", b"x" * 5_000])
def test_invalid_answer_is_a_clear_error(tmp_path: Path, answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_client, "MAX_ANSWER_BYTES", 4_000)
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def answer_once() -> None:
            client, _ = listener.accept()
            with client, suppress(OSError):
                client.recv(1000)
                client.sendall(answer)

        thread = threading.Thread(target=answer_once)
        thread.start()
        with raises(UsageError, "invalid-answer"):
            ask(path, {"command": "status"})
        thread.join()


def test_missing_member_of_an_answer_is_a_clear_error() -> None:
    answer = control_client._parse_answer(Path("control.sock"), b'{"signed": {}}')
    for found, key in ((answer, "openings"), (answer["signed"], "takes")):
        with raises(UsageError, "missing-member"):
            found[key]
    assert answer.get("trial") is None
