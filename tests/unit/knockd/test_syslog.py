"""Lines to /dev/log: format, and a reader that stalls, exits and returns."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from doorward.knockd import knockd_log as module
from doorward.knockd.knockd_log import BACKOFF_S, Syslog


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(module, "LOG_SOCKET", str(tmp_path / "log"))
    return tmp_path / "log"


@pytest.fixture
def syslog() -> Iterator[Syslog]:
    with closing(Syslog("knockd")) as opened:
        yield opened


def reader(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    bound.bind(str(path))
    bound.setblocking(False)
    return bound


def test_a_line_is_as_syslog_writes_it(path: Path, syslog: Syslog) -> None:
    with reader(path) as log:
        syslog.write("192.0.2.7: ssh: OPEN SESAME")
        text = log.recv(4096).decode()
    assert re.fullmatch(r"<29>[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d knockd: 192\.0\.2\.7: ssh: OPEN SESAME", text)


def test_slow_log_reader_does_not_block(path: Path, syslog: Syslog) -> None:
    with reader(path) as log:
        began_s = time.monotonic()
        for number in range(5000):
            syslog.write(f"line {number}")
        assert time.monotonic() - began_s < BACKOFF_S
        assert log.recv(4096).endswith(b"line 0")
        syslog.write("there is room again")
        kept: list[bytes] = []
        while not kept or not kept[-1].endswith(b"again"):
            kept.append(log.recv(4096))


def test_missing_and_restarted_log_reader(path: Path, syslog: Syslog) -> None:
    syslog.write("nobody is there")
    for line in ("first", "after a restart"):
        with reader(path) as log:
            syslog.write(line)
            assert log.recv(4096).decode().endswith(line)
