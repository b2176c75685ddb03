"""A real Firefox without a window, spoken to by WebDriver BiDi over a WebSocket: no driver, no library."""

from __future__ import annotations

import json
import os
import shutil
import socket
import struct
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from doorward.lab.namespace import NamespaceHost
from tests.conftest import unavailable
from tests.support.browser import UNTIL

_WAIT_S = 60.0  # for one answer, on a machine that is busy
_PORT = 9222  # in the host's own network namespace
_UPGRADE = (
    f"GET /session HTTP/1.1\r\nHost: 127.0.0.1:{_PORT}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
_FINAL, _TEXT, _MASKED, _CLOSE = 0x80, 1, 0x80, 8  # bits of a frame's header (RFC 6455 section 5.2)


class Firefox:
    """One page in one Firefox on a host of a lab."""

    def __init__(self, profile: Path, host: NamespaceHost) -> None:
        program = shutil.which("firefox-esr") or shutil.which("firefox")
        if program is None:
            unavailable("not installed: firefox-esr")
        profile.mkdir(exist_ok=True)
        options = ("--headless", "--no-remote", "--profile", profile, "--remote-debugging-port", _PORT)
        self._process = subprocess.Popen(
            host.argv([program, *options]),
            env={**os.environ, "HOME": str(profile)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._number = 0
        try:
            self._socket = self._connect(host)
            self._file = self._socket.makefile("rb")
            self._socket.sendall(_UPGRADE.encode())
            while self._file.readline().strip():
                pass  # the answer's header
            # A test's site has a certificate of the test's own.
            self.ask("session.new", capabilities={"alwaysMatch": {"acceptInsecureCerts": True}})
            self._page = self.ask("browsingContext.getTree")["contexts"][0]["context"]
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise

    def _connect(self, host: NamespaceHost) -> socket.socket:
        deadline_s = time.monotonic() + _WAIT_S
        while True:
            try:
                return host.call(socket.create_connection, ("127.0.0.1", _PORT), _WAIT_S)
            except ConnectionRefusedError:
                assert time.monotonic() < deadline_s, "Firefox does not listen"
                time.sleep(0.1)  # it reports its start to nobody

    def __enter__(self) -> Firefox:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.ask("browser.close")
        self._file.close()
        self._socket.close()
        self._process.wait(_WAIT_S)

    def open(self, address: str) -> None:
        """Open a page, and wait until all of it is there."""
        self.ask("browsingContext.navigate", context=self._page, url=address, wait="complete")

    def look(self, width: int) -> None:
        """Set the width of the window, in CSS pixels."""
        self.ask("browsingContext.setViewport", context=self._page, viewport={"width": width, "height": 800})

    def evaluate(self, expression: str) -> Any:
        """Return the text or number that an expression is in the page; of a promise, what it becomes."""
        target = {"context": self._page}
        answer = self.ask("script.evaluate", expression=expression, target=target, awaitPromise=True)
        assert answer["type"] == "success", answer
        return answer["result"].get("value")

    def until(self, expression: str) -> None:
        """Wait until an expression, or what it promises, is true."""
        self.evaluate(UNTIL.format(expression))

    def ask(self, method: str, **words: object) -> Any:
        """Call a method of the protocol, and give its answer."""
        self._number += 1
        self._send(json.dumps({"id": self._number, "method": method, "params": words}).encode())
        while (message := self._receive()).get("id") != self._number:
            pass  # events
        assert message["type"] == "success", message
        return message["result"]

    def _send(self, text: bytes) -> None:
        mask = os.urandom(4)
        short = bytes([_MASKED | len(text)]) if len(text) < 126 else b""
        length = short or struct.pack("!BH", _MASKED | 126, len(text))
        masked = bytes(letter ^ mask[index % 4] for index, letter in enumerate(text))
        self._socket.sendall(bytes([_FINAL | _TEXT]) + length + mask + masked)

    def _receive(self) -> dict[str, Any]:
        text, head = b"", 0
        while not head & _FINAL:
            head, length = self._file.read(2)
            if length > 125:
                length = int.from_bytes(self._file.read(2 if length == 126 else 8))
            text += self._file.read(length)
            assert head & 15 != _CLOSE, text
        message: dict[str, Any] = json.loads(text)
        return message
