"""A gate for browsers whose answers a test controls: it may lose a packet or be silent, and it counts the frames.

The real gate does not show the single frames; the page knocks at it in tests/browser/test_knock_gate.py.
"""

from __future__ import annotations

import selectors
import socket
import threading
import time
from ipaddress import ip_address
from types import TracebackType
from typing import NamedTuple

from doorward.errors import MalformedError
from doorward.lab.namespace import NamespaceHost
from doorward.signed import authorized_keys
from doorward.signed.authorize import KnockRejection, PacketAuthorizer, Verdict
from doorward.signed.server_key import PrivateKey
from doorward.signed.stun import has_integrity, ice_password, success_response, transaction_of, unwrap
from tests.support.signed import PORT


class Received(NamedTuple):
    """A knock: how many frames had it, from which address, and the verdict on the first."""

    frames: int
    source: str
    verdict: Verdict


class BrowserGate:
    """`loses`: how many frames are lost before one comes through."""

    def __init__(self, host: NamespaceHost, server: PrivateKey, gate: str = "") -> None:
        self.server, self.gate = server, gate
        self.received: dict[bytes, Received] = {}
        self.malformed: list[bytes] = []
        self.confirms, self.loses = True, 0
        self.authorize()
        self._sockets = [host.call(self._listen, family) for family in (socket.AF_INET, socket.AF_INET6)]
        self._wake, self._awake = socket.socketpair()
        self._thread = threading.Thread(target=self._run)

    def authorize(self, *lines: str) -> None:
        """Replace who may knock."""
        keys, faults = authorized_keys.parse("".join(f"{line}\n" for line in lines), "authorized_keys")
        assert faults == []
        doors = {"ssh": 30_000, "wiki": 600_000}
        self._authorizer = PacketAuthorizer(self.server, keys, doors, self.gate or None, 60_000)

    def verdicts(self) -> list[Verdict]:
        """Return the verdicts since the last call, in order."""
        verdicts = [received.verdict for received in self.received.values()]
        self.received = {}
        return verdicts

    def __enter__(self) -> BrowserGate:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._wake.close()
        self._thread.join()
        for each in (*self._sockets, self._awake):
            each.close()

    @staticmethod
    def _listen(family: socket.AddressFamily) -> socket.socket:
        gate = socket.socket(family, socket.SOCK_DGRAM)
        if family == socket.AF_INET6:
            gate.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        gate.bind(("", PORT))
        return gate

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            for each in (*self._sockets, self._awake):
                selector.register(each, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if key.fileobj is self._awake:
                        return
                    assert isinstance(key.fileobj, socket.socket)
                    self._take(key.fileobj)

    def _take(self, gate: socket.socket) -> None:
        frame, sender = gate.recvfrom(2000)
        if self.loses:
            self.loses -= 1
            return
        try:
            packet = unwrap(frame)
        except MalformedError:
            self.malformed.append(frame)
            return
        source = ip_address(sender[0])
        known = self.received.get(packet)
        verdict = known.verdict if known else self._verdict(packet, source.packed)
        self.received[packet] = Received(known.frames + 1 if known else 1, sender[0], verdict)
        if self.confirms and not isinstance(verdict, KnockRejection) and verdict.reply is not None:
            password = ice_password(verdict.reply)
            if has_integrity(frame, password):
                gate.sendto(success_response(transaction_of(frame), source, sender[1], password), sender)

    def _verdict(self, packet: bytes, source: bytes) -> Verdict:
        return self._authorizer.authorize(packet, source, round(time.time() * 1000))
