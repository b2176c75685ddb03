"""The manual's examples of hooks, run by the real daemon: mails and posts arrive, and strangers cause only a few."""

from __future__ import annotations

import json
import re
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from ipaddress import ip_address
from pathlib import Path
from queue import Queue
from typing import Any

import pytest

from doorward.daemon.hooks import REFUSALS_A_MINUTE
from doorward.lab.topology import Lab
from doorward.model import Packet, Port
from tests.support.daemon import PATIENCE_S, Visitors, running_daemon
from tests.support.frames import FrameSender

pytestmark = pytest.mark.netns("knock", "nft")

ROOT = Path(__file__).parents[2]
HOOKS = ROOT / "contrib" / "hooks"
MAIL, WEBHOOK = re.findall(r"^```toml\n(.*?)^```", (ROOT / "docs" / "hooks.md").read_text(), re.MULTILINE | re.DOTALL)


class Received(Queue[str]):
    """What arrived, in order."""

    def next(self) -> str:
        return self.get(timeout=PATIENCE_S)


class _Mailbox(socketserver.StreamRequestHandler):
    """As much of SMTP (RFC 5321) as a client needs."""

    received: Received

    def handle(self) -> None:
        self.wfile.write(b"220 sink\r\n")
        for line in self.rfile:
            verb = line.strip().upper()
            if verb == b"DATA":
                self.wfile.write(b"354 go on\r\n")
                lines = iter(self.rfile.readline, b".\r\n")
                self.received.put(b"".join(lines).decode().replace("\r\n", "\n"))
            self.wfile.write(b"221 bye\r\n" if verb == b"QUIT" else b"250 fine\r\n")
            if verb == b"QUIT":
                return


class _Hook(BaseHTTPRequestHandler):
    received: Received

    def do_POST(self) -> None:
        self.received.put(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def receiving(lab: Lab, server_type: type[socketserver.TCPServer], handler: type) -> Iterator[tuple[int, Received]]:
    """Listen on the server's own loopback; gives the port and what arrives."""
    received = Received()
    server = lab.server.call(server_type, ("127.0.0.1", 0), type("Handler", (handler,), {"received": received}))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server.server_address[1], received
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def at_home(text: str) -> str:
    """Let the example run the programs of this tree."""
    assert text.count("/usr/local/libexec/doorward-") == 2
    return text.replace("/usr/local/libexec", str(HOOKS))


def test_the_example_of_a_mail(direct_lab: Lab, tmp_path: Path) -> None:
    visitor, scanner = Visitors(direct_lab).crowd(4, 2)
    with receiving(direct_lab, socketserver.ThreadingTCPServer, _Mailbox) as (port, mails):
        config = at_home(MAIL).replace('"localhost"', f'"127.0.0.1:{port}"')
        with running_daemon(direct_lab.server, tmp_path, config):
            visitor.knock("7000", "8000:udp", "9000")
            mail = mails.next()
            assert re.search(rf"^Subject: \S+: ssh is open to {visitor}$", mail, re.MULTILINE)
            assert "To: root@localhost" in mail
            scanner.knock(*range(7500, 7560))
            assert re.search(rf"^Subject: \S+: refused {scanner}: throttled$", mails.next(), re.MULTILINE)


def test_the_example_of_a_webhook(direct_lab: Lab, tmp_path: Path) -> None:
    visitor, scanner = Visitors(direct_lab).crowd(6, 2)
    with receiving(direct_lab, HTTPServer, _Hook) as (port, posts):
        secret = tmp_path / "webhook"
        secret.write_text(f"http://127.0.0.1:{port}/services/T0/B0/secret\n")
        config = at_home(WEBHOOK).replace("/etc/doorward/webhook", str(secret))
        with running_daemon(direct_lab.server, tmp_path, config) as daemon:
            visitor.knock("7000", "8000:udp", "9000")
            post = json.loads(posts.next())
            assert post["text"].endswith(f": ssh is open to {visitor}")
            assert post["words"] == ["ssh", "is", "open", "to", str(visitor)]
            scanner.knock(*range(7500, 7560))
            assert json.loads(posts.next())["words"] == ["refused", f"{scanner}:", "throttled"]
            assert not any("secret" in line for line in daemon.lines)


def test_other_sources_cannot_run_it_without_a_bound(direct_lab: Lab, tmp_path: Path) -> None:
    record = tmp_path / "record"
    config = f"""
[gate]
on_refuse = ["/bin/sh", "-c", "echo $0 $1 >> {record}", "%IP%", "%REASON%"]
[doors.ssh]
knock = ["7001/tcp", "7002/tcp", "7003/tcp"]
opens = ["22/tcp"]
"""
    scanners = [ip_address(f"203.0.113.{n}") for n in range(1, REFUSALS_A_MINUTE + 6)]
    with running_daemon(direct_lab.server, tmp_path, config) as daemon:
        frames = FrameSender(direct_lab.client, direct_lab.server)
        for scanner in scanners:
            for port in range(1000, 1060):
                frames.send(Packet(scanner.packed, Port.parse(f"{port}/tcp"), 2))
        frames.close()
        for scanner in scanners:
            daemon.event("refused", address=str(scanner))
        for _ in range(REFUSALS_A_MINUTE):
            daemon.message("on_refuse: running: /bin/sh")
        daemon.end()  # which waits for what runs
        lines = record.read_text().splitlines()
        assert sorted(lines) == sorted(f"{scanner} throttled" for scanner in scanners[:REFUSALS_A_MINUTE])
