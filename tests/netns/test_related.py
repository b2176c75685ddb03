"""What a conntrack helper expects opens no hidden port: an FTP server that repeats a client's text, also behind NAT."""

from __future__ import annotations

import re
import select
import socket
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from doorward.lab.topology import Lab
from tests.conftest import unavailable
from tests.support.daemon import SILENCE_S, RunningDaemon, running_daemon

pytestmark = pytest.mark.netns("nft")

SSH, PASSIVE, FTP, TRANSLATED = 22, 40_000, 21, 2121
CONFIG = """
[gate]
mode = "{mode}"
{public}
[doors.ssh]
knock = ["7001/tcp", "7002/tcp"]
opens = ["22/tcp"]
"""
MODES = {"guard": "", "stealth": 'public = ["21/tcp", "2121/tcp"]'}
HELPER = """
table inet helpers {
    ct helper ftp {
        type "ftp" protocol tcp
    }
    chain assign {
        type filter hook prerouting priority -190; policy accept;
        tcp dport { 21, 2121 } ct helper set "ftp"
    }
    chain translate {
        type nat hook prerouting priority dstnat; policy accept;
        tcp dport 2121 redirect to :21
    }
}
"""


class EchoServer:
    """An FTP server that repeats what it is sent, as many do in their error messages."""

    def __init__(self, lab: Lab, stack: ExitStack) -> None:
        self._lab, self._stack = lab, stack
        listener = lab.server.call(socket.create_server, ("", FTP))
        stack.callback(listener.close)
        self._listener = listener

    def _connected(self, port: int) -> tuple[socket.socket, threading.Thread]:
        client = self._lab.client.call(socket.create_connection, (str(self._lab.server.ipv4), port), 5)
        accepted, _ = self._listener.accept()

        def repeat() -> None:
            with accepted:
                while data := accepted.recv(1000):
                    accepted.sendall(data)

        thread = threading.Thread(target=repeat)
        thread.start()
        return client, thread

    def announce(self, port: int, by: int = FTP) -> int:
        """Have the server announce a passive port, and return what the client reads: a NAT helper may change it."""
        client, thread = self._connected(by)
        self._stack.callback(thread.join)
        self._stack.callback(client.close)
        client.sendall(b"hello\r\n")  # the helper reads from the second line on
        client.recv(100)
        host = str(self._lab.server.ipv4).replace(".", ",")
        client.sendall(f"227 Entering Passive Mode ({host},{port >> 8},{port & 255})\r\n".encode())
        high, low = re.findall(rb"(\d+),(\d+)\)", client.recv(100))[0]
        return int(high) << 8 | int(low)


def connects(lab: Lab, ports: list[int]) -> set[int]:
    """Connect to all ports at once, in order, and return those that accept."""
    waiting: dict[socket.socket, int] = {}
    for port in ports:
        sock = lab.client.call(socket.socket, socket.AF_INET, socket.SOCK_STREAM)
        sock.setblocking(False)
        sock.connect_ex((str(lab.server.ipv4), port))
        waiting[sock] = port
    found, left = set(), [*waiting]
    while left and (ready := select.select([], left, [], SILENCE_S)[1]):
        found |= {waiting[sock] for sock in ready if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)}
        left = [sock for sock in left if sock not in ready]
    for sock in waiting:
        sock.close()
    return found


@pytest.mark.parametrize("mode", MODES)
def test_a_conntrack_helper_opens_no_hidden_port(direct_lab: Lab, tmp_path: Path, mode: str) -> None:
    """The port that is not hidden shows that the helper works. The second port 22 is one that NAT leads there."""
    lab = direct_lab
    for port in (SSH, PASSIVE):
        lab.server.start_greeter(port)
    lab.server.run(["modprobe", "-q", "nf_nat_ftp"], check=False)  # where it is a module, nothing else loads it
    if lab.server.run(["nft", "-f", "-"], stdin=HELPER, check=False).returncode:
        unavailable("this kernel has no conntrack helper for FTP (nf_conntrack_ftp)")
    with running_daemon(lab.server, tmp_path, CONFIG.format(mode=mode, public=MODES[mode])) as daemon, ExitStack() as s:
        server = EchoServer(lab, s)
        announced = [server.announce(SSH), server.announce(PASSIVE), server.announce(SSH, by=TRANSLATED)]
        assert announced[:2] == [SSH, PASSIVE]
        assert announced[2] not in announced[:2]
        assert connects(lab, announced) == {PASSIVE}
        assert_related_is_not_a_knock(lab, daemon, server)


def assert_related_is_not_a_knock(lab: Lab, daemon: RunningDaemon, server: EchoServer) -> None:
    server.announce(7001)
    connects(lab, [7001, 7002])
    assert daemon.counters()["knocked"] == 0
    connects(lab, [7001, 7002])
    daemon.event("opened", door="ssh")
