"""Real etcd nodes: on this machine's loopback, or on a lab's host."""

from __future__ import annotations

import queue
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from doorward.fleet.etcd import Etcd, EtcdAccess
from tests.conftest import unavailable

PATIENCE_S = 30.0
_READY = "ready to serve client requests"
Popen = Callable[..., "subprocess.Popen[Any]"]


class Node:
    """One etcd with a folder of its own."""

    def __init__(
        self, name: str, folder: Path, client: str, peer: str, popen: Popen = subprocess.Popen, *more: str
    ) -> None:
        self.name, self.folder, self.client, self.peer = name, folder, client, peer
        self._popen, self._more = popen, more
        self.process: subprocess.Popen[Any] | None = None
        self.lines: list[str] = []

    def start(self, cluster: str = "") -> None:
        """Start it; `await_ready` waits."""
        words = {
            "name": self.name,
            "data-dir": self.folder,
            "listen-client-urls": self.client,
            "advertise-client-urls": self.client,
            "listen-peer-urls": self.peer,
            "initial-advertise-peer-urls": self.peer,
            "initial-cluster": cluster or f"{self.name}={self.peer}",
            "logger": "zap",
            "pre-vote": "true",  # a node that comes back from a cut unseats no leader
        }
        command = ["etcd", *(f"--{key}={value}" for key, value in words.items()), *self._more]
        pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        self.process = self._popen(command, **pipes)
        self._ready: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, args=(self.process,), daemon=True)
        self._reader.start()

    def await_ready(self) -> None:
        assert self._ready.get(timeout=PATIENCE_S), "".join(self.lines[-20:])

    def end(self, number: signal.Signals = signal.SIGKILL) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(PATIENCE_S)
            self._reader.join(PATIENCE_S)
            if self.process.stderr is not None:
                self.process.stderr.close()
            self.process = None

    def _read(self, process: subprocess.Popen[Any]) -> None:
        assert process.stderr is not None
        for line in process.stderr:
            self.lines.append(line)
            if _READY in line or "serving client traffic" in line or "serving insecure client" in line:
                self._ready.put(True)
        self._ready.put(False)


def needs_etcd() -> None:
    """Skip where etcd is not installed."""
    if shutil.which("etcd") is None:
        unavailable("etcd is missing; install the package etcd-server")


@contextmanager
def single(folder: Path, *more: str, scheme: str = "http") -> Iterator[Node]:
    """One node on the loopback, ready."""
    needs_etcd()
    ports = _free_ports(2)
    client, peer = f"{scheme}://127.0.0.1:{ports[0]}", f"http://127.0.0.1:{ports[1]}"
    node = Node("alone", folder, client, peer, subprocess.Popen, *more)
    try:
        node.start()
        node.await_ready()
        yield node
    finally:
        node.end()


@contextmanager
def cluster(nodes: Sequence[Node]) -> Iterator[None]:
    """Several nodes, ready."""
    needs_etcd()
    with ExitStack() as stack:
        for node in nodes:
            stack.callback(node.end)
            node.start(cluster_of(nodes))
        for node in nodes:
            node.await_ready()
        yield


def cluster_of(nodes: Sequence[Node]) -> str:
    return ",".join(f"{node.name}={node.peer}" for node in nodes)


def etcd_at(*nodes: Node, timeout_s: float = 5.0, **more: Any) -> Etcd:
    """Return a client of these nodes."""
    return Etcd(EtcdAccess(tuple(node.client for node in nodes), timeout_s, **more))


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [sock.getsockname()[1] for sock in sockets]
