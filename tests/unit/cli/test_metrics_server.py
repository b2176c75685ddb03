"""The server for Prometheus: local only, and not blocked by slow or hostile clients."""

from __future__ import annotations

import http.client
import socket
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorward.cli import metrics_server as module
from doorward.cli.metrics_server import MAX_CLIENTS, Listen, Server, Stats, StatsCache, parse_listen
from doorward.errors import HostError, UsageError
from tests.support.errors import raises

PATIENCE_S = 15.0


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("unix:/run/doorward/metrics.sock", Listen(socket.AF_UNIX, "/run/doorward/metrics.sock")),
        ("127.0.0.1:9477", Listen(socket.AF_INET, "127.0.0.1", 9477)),
        ("localhost:1", Listen(socket.AF_INET, "127.0.0.1", 1)),
        ("[::1]:65535", Listen(socket.AF_INET6, "::1", 65535)),
    ],
)
def test_local_addresses(text: str, meant: Listen) -> None:
    assert parse_listen(text) == meant


WRONG = [
    "", ":9477", "9477", "0.0.0.0:9477", "[::]:9477", "::1:9477", "192.0.2.7:9477", "127.0.0.2:9477",
    "example.org:9477", "127.0.0.1", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:65536", "127.0.0.1:-1",
    "127.0.0.1:٣", "127.0.0.1:99999999", "unix:metrics.sock", "unix:", "/run/metrics.sock",
]  # fmt: skip


@pytest.mark.parametrize("text", WRONG)
def test_other_addresses_are_rejected(text: str) -> None:
    with raises(UsageError, "invalid-listen-address"):
        parse_listen(text)


@given(st.text())
def test_any_text_is_local_or_rejected(text: str) -> None:
    with suppress(UsageError):
        listen = parse_listen(text)
        assert listen.family is socket.AF_UNIX or listen.address in ("127.0.0.1", "::1")


STATS: Stats = {
    "doors": 1, "openings": 2, "bans": 0, "events": [], "refused": {}, "counters": {}, "sets": {}, "signed": None,
    "latency": {"bounds": [], "counts": [0], "sum": 0.0},
    "log_overflows": 0, "ledger_trouble": "", "ledger_lost": 0,
}  # fmt: skip


@contextmanager
def serving(listen: Listen, fetch: Callable[[], Stats | None] = lambda: STATS) -> Iterator[Server]:
    server = Server(listen, StatsCache(fetch).get)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def connection(server: Server) -> socket.socket:
    client = socket.socket(server.address_family)
    client.settimeout(PATIENCE_S)
    client.connect(server.socket.getsockname())
    return client


def get(server: Server, path: str = "/metrics", method: str = "GET", **headers: str) -> tuple[int, str]:
    with connection(server) as client:
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        client.sendall("".join(f"{line}\r\n" for line in (*lines, "")).encode())
        answer = http.client.HTTPResponse(client, method=method)
        answer.begin()
        text = answer.read().decode()
        return answer.status, "\n".join(line for line in text.splitlines() if not line.startswith("#"))


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(Listen(socket.AF_INET, "127.0.0.1")) as server:
        yield server


@pytest.fixture
def path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:  # short, for a socket's path has 107 bytes
        yield Path(folder) / "metrics.sock"


def test_it_serves_the_metrics_and_nothing_else(server: Server) -> None:
    status, text = get(server)
    assert (status, text.splitlines()[0]) == (200, "doorward_up 1.0")
    assert "doorward_openings" not in text
    assert get(server, "/metrics?name[]=doorward_doors") == (status, text)
    assert get(server, "/") == get(server, "/favicon.ico") == (404, "only /metrics is served")
    assert get(server, "/../etc/passwd")[0] == 404
    for method in "HEAD", "POST", "OPTIONS":
        assert get(server, method=method)[0] == 405


def test_foreign_host_header_is_rejected(server: Server) -> None:
    for host in "127.0.0.1", "127.0.0.1:9477", "localhost:9477", "[::1]:9477", "[::1]":
        assert get(server, Host=host)[0] == 200
    for host in "attacker.example", "attacker.example:9477", "127.0.0.1.attacker.example", "192.0.2.7:9477":
        assert get(server, Host=host)[0] == 403


def test_unix_socket_mode_and_removal(path: Path) -> None:
    listen = Listen(socket.AF_UNIX, str(path))
    with serving(listen) as server:
        status, text = get(server, Host="whatever")
        assert (status, "doorward_openings 2.0" in text.splitlines()) == (200, True)
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        with raises(HostError, "socket-in-use"):
            Server(listen, lambda: STATS)
    assert not path.exists()


def test_only_stale_socket_is_replaced(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with serving(Listen(socket.AF_UNIX, str(path))) as server:
        assert get(server)[0] == 200
    path.write_text("precious")
    with raises(HostError, "socket-in-use"):
        Server(Listen(socket.AF_UNIX, str(path)), lambda: STATS)
    assert path.read_text() == "precious"


def test_port_in_use_is_named(server: Server) -> None:
    port = server.socket.getsockname()[1]
    with pytest.raises(HostError, match=f"127.0.0.1:{port}: Address already in use"):
        Server(Listen(socket.AF_INET, "127.0.0.1", port), lambda: STATS)


def test_slow_clients_are_cut_off(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with ExitStack() as stack:
        slow = [stack.enter_context(connection(server)) for _ in range(MAX_CLIENTS - 1)]
        for client in slow:
            client.sendall(b"GET /metr")
        assert get(server)[0] == 200
    monkeypatch.setattr(module, "PATIENCE_S", 0.1)
    with connection(server) as client:
        client.sendall(b"GET /metr")
        assert client.recv(100) == b""


def test_excess_clients_are_rejected(server: Server) -> None:
    with ExitStack() as stack:
        for _ in range(MAX_CLIENTS):
            stack.enter_context(connection(server)).sendall(b"GET /metr")
        with connection(server) as late:
            late.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            with suppress(ConnectionResetError):
                assert late.recv(100) == b""


def test_daemon_is_queried_at_most_once_per_second(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def fetch() -> Stats:
        asked.append(len(asked))
        return STATS

    monkeypatch.setattr(module, "FRESH_S", 1000.0)
    with serving(Listen(socket.AF_INET, "127.0.0.1"), fetch) as server:
        assert [get(server)[0] for _ in range(5)] == [200] * 5
    assert len(asked) == 1
    monkeypatch.setattr(module, "FRESH_S", 0.0)
    with serving(Listen(socket.AF_INET, "127.0.0.1"), fetch) as server:
        assert [get(server)[0] for _ in range(2)] == [200, 200]
    assert len(asked) == 3
