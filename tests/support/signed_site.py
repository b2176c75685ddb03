"""A server of a lab that accepts signed knocks, and a client that sends them."""

from __future__ import annotations

import itertools
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from doorward.lab.topology import Lab
from tests.support.daemon import SLOWNESS, RunningDaemon, Visitor, Visitors, running_daemon, until
from tests.support.signed import PORT, Signed, Signer, send
from tests.support.tcpdump import MARKER, Tcpdump

# tcpdump's words for what a gate sends, other than neighbour discovery; the marker of `sent_by_gate` is in it.
SENT_BY_GATE = "-i", "eth0", "-Q", "out", f"udp or icmp or (icmp6 and ip6[40] < 128) or (tcp and src port {PORT})"


class SignedSite:
    """The daemon with this configuration, once it is started, and a key that it allows."""

    daemon: RunningDaemon

    def __init__(self, lab: Lab, folder: Path, text: str) -> None:
        self.lab, self.folder, self.text, self.laptop = lab, folder, text, Signer("laptop")
        self.files = Signed(folder / "configuration", self.laptop)
        self.visitors = Visitors(lab)
        self._marks = itertools.count(42_000)

    @contextmanager
    def running(self) -> Iterator[RunningDaemon]:
        """Run the daemon until the end of the block."""
        with running_daemon(self.lab.server, self.folder, self.text) as self.daemon:
            self.daemon.message("accepting signed knocks")
            yield self.daemon

    def renew(self) -> None:
        """Return to the state after the start, for another test."""
        self.daemon.renew(self.text)
        if self.files.keys_file.read_text() != f"{self.laptop.line}\n":
            self.files.authorize(self.laptop.line)
            self.daemon.message("accepting signed knocks")
            self.daemon.forget()

    def send(self, visitor: Visitor, *packets: bytes) -> None:
        """Send packets from one port of a visitor."""
        send(self.lab.client, visitor.source, visitor.server, *packets)

    def exchange(
        self, visitor: Visitor, *packets: bytes, own_port: int = 0, port: int = PORT, every_s: float = 0.0
    ) -> list[bytes]:
        """Send packets from one port, and return what comes back to it within a moment."""

        def go() -> list[bytes]:
            family = socket.AF_INET if visitor.source.version == 4 else socket.AF_INET6
            with socket.socket(family, socket.SOCK_DGRAM) as own:
                own.bind((str(visitor), own_port))
                own.connect((str(visitor.server), port))  # takes nothing from elsewhere
                for packet in packets:
                    own.send(packet)
                    time.sleep(every_s)
                own.settimeout(2.0 * SLOWNESS)
                received: list[bytes] = []
                try:
                    while True:
                        received.append(own.recv(2000))
                        own.settimeout(0.3 * SLOWNESS)
                except TimeoutError:
                    return received

        return self.lab.client.call(go)

    def sent_by_gate(self, capture: Tcpdump) -> list[int]:
        """Return the lengths of the frames that the gate has sent so far, with the markers of earlier calls."""
        mark = next(self._marks)
        send(self.lab.server, self.lab.server.ipv4, self.lab.client.ipv4, b"", port=MARKER, own_port=mark)
        capture.await_marker(mark)
        return [len(frame.data) for frame in capture.frames[:-1]]

    def await_opened(self, count: int) -> None:
        """Wait until so many knocks have opened a door, or prolonged an opening, which is logged only once."""
        until(lambda: count <= sum(row[3] for row in self.daemon.ask("stats")["events"] if row[2] == "key"))
