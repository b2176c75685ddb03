"""The client against a real etcd: values, transactions, leases, watches, users, endpoints that fail."""

from __future__ import annotations

import queue
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from doorward.fleet import etcd_codec
from doorward.fleet.etcd import CompactedError, Etcd, EtcdAccess, EtcdRejectedError, EtcdUnavailableError
from doorward.fleet.etcd_codec import WatchMessage
from tests.support.errors import raises
from tests.support.etcd import Node, etcd_at, single


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with single(tmp_path_factory.mktemp("etcd")) as node:
        yield node


@pytest.fixture
def etcd(node: Node) -> Iterator[Etcd]:
    made = etcd_at(node)
    yield made
    made.close()


@pytest.fixture
def at(request: pytest.FixtureRequest) -> str:
    return f"/{request.node.name}/"


def test_put_range_and_delete(etcd: Etcd, at: str) -> None:
    first = etcd.put(f"{at}a", b"1")
    second = etcd.put(f"{at}b", bytes(range(256)))
    etcd.put(at[:-1] + "0", b"after the prefix")
    found = etcd.prefix(at)
    assert [(e.key, e.value, e.revision) for e in found.entries] == [
        (f"{at}a", b"1", first),
        (f"{at}b", bytes(range(256)), second),
    ]
    assert found.revision >= second
    assert etcd.range(f"{at}a", at=first).entries == etcd.range(f"{at}a").entries
    assert [etcd.delete(f"{at}a"), etcd.delete(f"{at}a")] == [1, 0]


def test_prefix_reads_all_pages(etcd: Etcd, at: str) -> None:
    for begin in range(0, 2500, 100):
        etcd.txn([], [etcd_codec.to_put(f"{at}{n:05}", b"x") for n in range(begin, begin + 100)])
    found = etcd.prefix(at)
    assert [entry.key for entry in found.entries] == [f"{at}{n:05}" for n in range(2500)]
    newest = etcd.range(at, etcd_codec.prefix_end(at), limit=1, newest_first=True)
    assert newest.entries[0].key >= f"{at}02400"


def test_conditional_create_succeeds_once(etcd: Etcd, at: str) -> None:
    key = f"{at}once"
    look = [etcd_codec.to_read(key)]
    first = etcd.txn([(key, 0)], [etcd_codec.to_put(key, b"mine")], look)
    again = etcd.txn([(key, 0)], [etcd_codec.to_put(key, b"yours")], look)
    assert (first.succeeded, first.read) == (True, [None])
    assert not again.succeeded
    (current,) = again.entries(0, 1)
    assert (current.value, current.revision) == (b"mine", first.revision)
    changed = etcd.txn([(key, first.revision)], [etcd_codec.to_put(key, b"new")], look)
    assert changed.succeeded


def test_transaction_reads_what_it_has_written(etcd: Etcd, at: str) -> None:
    """So of a close and an older open that are claimed together, the order in which they came counts."""
    look = etcd_codec.to_read(f"{at}closes/5", f"{at}closes/9")
    done = etcd.txn([], [look, etcd_codec.to_put(f"{at}closes/7", b""), look])
    assert done.read[:2] == [[], None]
    assert [entry.key for entry in done.entries(2, 3)] == [f"{at}closes/7"]


def test_leases(etcd: Etcd, at: str) -> None:
    lease = etcd.grant(1000)
    etcd.put(f"{at}a", b"", lease)
    assert etcd.range(f"{at}a").entries[0].lease == lease
    assert 900 < etcd.left_s(lease) <= 1000
    assert etcd.keep_alive(lease)
    etcd.revoke(lease)
    assert etcd.range(f"{at}a").entries == []
    assert etcd.left_s(lease) == -1
    assert not etcd.keep_alive(lease)
    with pytest.raises(EtcdRejectedError, match="lease not found"):
        etcd.put(f"{at}a", b"", lease)


def test_watch_reports_past_and_new_changes(etcd: Etcd, at: str) -> None:
    since = etcd.put(f"{at}a", b"1")
    messages: queue.SimpleQueue[WatchMessage] = queue.SimpleQueue()
    with etcd.watch([(at, etcd_codec.prefix_end(at), since), ("/other/", "/other0", since)]) as watch:
        created = [watch.read() for _ in range(2)]
        assert all(each.is_created for each in created)

        def listen() -> None:
            while True:
                try:
                    messages.put(watch.read())
                except EtcdUnavailableError:
                    return

        thread = threading.Thread(target=listen)
        thread.start()
        changes = messages.get(timeout=10).changes
        assert [(c.is_put, c.entry.key, c.entry.value) for c in changes] == [(True, f"{at}a", b"1")]
        at_rev = etcd.put("/other/x", b"2")
        assert messages.get(timeout=10).changes[0].entry.revision == at_rev
        etcd.delete(f"{at}a")
        (change,) = messages.get(timeout=10).changes
        assert (change.is_put, change.entry.key, change.entry.revision) == (False, f"{at}a", at_rev + 1)
        watch.stop()
        thread.join(10)
        assert not thread.is_alive()


def test_watch_from_a_compacted_revision_raises(etcd: Etcd, at: str) -> None:
    old = etcd.put(f"{at}a", b"1")
    newest = etcd.put(f"{at}a", b"2")
    etcd.call("kv/compaction", {"revision": str(newest), "physical": True})
    with etcd.watch([(at, etcd_codec.prefix_end(at), old)]) as watch:
        assert watch.read().is_created
        with pytest.raises(CompactedError, match=str(newest)):
            watch.read()


def test_failing_endpoints_are_skipped(node: Node, at: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        refusing, mute = "http://127.0.0.1:1", f"http://127.0.0.1:{silent.getsockname()[1]}"
        etcd = Etcd(EtcdAccess((refusing, mute, node.client), 0.3))
        began_s = time.monotonic()
        etcd.put(f"{at}a", b"1")
        assert time.monotonic() - began_s < 5
        assert etcd.endpoint == node.client  # and stays there
        etcd.close()
        with raises(EtcdUnavailableError, "etcd-unavailable"):
            Etcd(EtcdAccess((refusing, mute), 0.2)).put(f"{at}a", b"1")


def test_malformed_answer_is_an_error(at: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            sock, _ = listener.accept()
            with sock:
                sock.recv(65536)
                sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n[1,2]")

        thread = threading.Thread(target=serve)
        thread.start()
        with raises(EtcdUnavailableError, "etcd-unavailable"):
            Etcd(EtcdAccess((f"http://127.0.0.1:{listener.getsockname()[1]}",), 2)).put(f"{at}a", b"1")
        thread.join()


def test_users_and_their_prefix(tmp_path: Path) -> None:
    with single(tmp_path, "--auth-token-ttl", "1") as node:
        root, gate = etcd_at(node), etcd_at(node, user="edge-1", password="secret")  # noqa: S106
        guesser = etcd_at(node, user="edge-1", password="guess")  # noqa: S106
        steps: list[tuple[str, dict[str, Any]]] = [
            ("auth/user/add", {"name": "root", "password": "r"}),
            ("auth/user/add", {"name": "edge-1", "password": "secret"}),
            ("auth/role/add", {"name": "root"}),
            ("auth/role/add", {"name": "gates"}),
            ("auth/user/grant", {"user": "root", "role": "root"}),
            ("auth/user/grant", {"user": "edge-1", "role": "gates"}),
            (
                "auth/role/grant",
                {
                    "name": "gates",
                    "perm": {"permType": "READWRITE"} | etcd_codec.key_range("/doorward/x/", "/doorward/x0"),
                },
            ),
            ("auth/enable", {}),
        ]
        for path, body in steps:
            root.call(path, body)
        gate.put("/doorward/x/a", b"1")
        with gate.watch([("/doorward/x/", "/doorward/x0", 1)]) as watch:
            assert watch.read().is_created
        for wrong in (lambda: gate.put("/other", b"1"), lambda: gate.range("/"), lambda: root.range("/doorward/x/a")):
            with pytest.raises(EtcdRejectedError, match=r"permission denied|user name is empty"):
                wrong()
        with pytest.raises(EtcdRejectedError, match="authentication failed"):
            guesser.put("/doorward/x/a", b"1")
        gate._access.token = "is.none"  # as a restarted node sees an old token  # noqa: S105
        gate.put("/doorward/x/a", b"2")
        for made in (root, gate, guesser):
            made.close()
