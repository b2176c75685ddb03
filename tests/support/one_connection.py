"""What the tests of openings for one connection share."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from doorward.lab.namespace import NamespaceHost
from tests.support.daemon import RunningDaemon

_HOLD_ANSWERS = """
table inet away {
    chain output {
        type filter hook output priority 0; policy accept;
        tcp flags & (syn | ack) == syn | ack drop
    }
}"""


@contextmanager
def answers_held(*hosts: NamespaceHost) -> Iterator[None]:
    """Drop the hosts' answers to SYNs, so that clients send these again."""
    for host in hosts:
        host.run(["nft", "-f", "-"], stdin=_HOLD_ANSWERS)
    yield
    for host in hosts:
        host.run(["nft", "delete", "table", "inet", "away"])


def used_by(connection: socket.socket) -> str:
    """Return how an opening ends that this connection used up."""
    return f"use from port {connection.getsockname()[1]}"


def reload(daemon: RunningDaemon) -> None:
    daemon.reload(daemon.config.read_text())


def restart(daemon: RunningDaemon) -> None:
    daemon.end()
    daemon.start()
