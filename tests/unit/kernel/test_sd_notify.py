"""systemd's notifications, received on a real datagram socket."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from doorward.kernel.sd_notify import notify, reloading, watchdog_interval_s


@pytest.fixture(params=["in a folder", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    name = str(tmp_path / "notify") if request.param == "in a folder" else f"@doorward-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(name.replace("@", "\0"))
        manager.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        yield manager


def test_each_call_is_one_message(manager: socket.socket) -> None:
    notify("READY=1", "STATUS=2 doors, mode guard für größer")
    notify("STOPPING=1")
    assert manager.recv(4096).decode() == "READY=1\nSTATUS=2 doors, mode guard für größer"
    assert manager.recv(4096) == b"STOPPING=1"


def test_reload_reports_its_time(manager: socket.socket) -> None:
    before_us = time.monotonic_ns() // 1000
    reloading()
    first, second = manager.recv(4096).decode().split("\n")
    name, moment = second.split("=")
    assert (first, name) == ("RELOADING=1", "MONOTONIC_USEC")
    assert before_us <= int(moment) <= time.monotonic_ns() // 1000


@pytest.mark.parametrize("path", [None, "", "relative", "/no/such/socket", "@no-such-socket", "/" + "x" * 200])
def test_without_a_manager_nothing_happens(monkeypatch: pytest.MonkeyPatch, path: str | None) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    if path is not None:
        monkeypatch.setenv("NOTIFY_SOCKET", path)
    notify("READY=1")


@pytest.mark.parametrize(
    ("microseconds", "process", "expected"),
    [
        (None, None, None),
        ("", None, None),
        ("0", None, None),
        ("soon", None, None),
        ("-5", None, None),
        ("²", None, None),  # a digit for str.isdigit, none for int
        ("30000000", None, 15.0),
        ("30000000", "this", 15.0),
        ("30000000", "1", None),  # meant for another process
        ("1", None, 0.0000005),
    ],
)
def test_watchdog_interval(
    monkeypatch: pytest.MonkeyPatch, microseconds: str | None, process: str | None, expected: float | None
) -> None:
    for name, value in ("WATCHDOG_USEC", microseconds), ("WATCHDOG_PID", process):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, str(os.getpid()) if value == "this" else value)
    assert watchdog_interval_s() == expected
