"""A real Chromium without a window, spoken to over a pipe (its DevTools protocol): no port, no driver, no library."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from doorward.lab.namespace import NamespaceHost
from tests.conftest import unavailable

_WAIT_S = 60.0  # for one answer, on a machine that is busy
_OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-extensions", "--disable-dev-shm-usage",
    "--hide-scrollbars", "--force-color-profile=srgb", "--font-render-hinting=none", "--remote-debugging-pipe",
    "--ignore-certificate-errors",
)  # fmt: skip
UNTIL = """new Promise(done => {{
  const look = async () => await ({}) ? done() : setTimeout(look, 20);
  look();
}})"""
_HIGH = 10  # descriptors from here on are in nobody's way
# The browser reads from descriptor 3 and writes to descriptor 4.
_LAUNCH = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.dup2(int(sys.argv[2]), 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Browser:
    """One page in one browser, on this machine or on a host of a lab.

    `events`: the messages of the protocol since the page was opened, oldest first.
    """

    def __init__(self, profile: Path, host: NamespaceHost | None = None) -> None:
        program = shutil.which("chromium")
        if program is None:
            unavailable("not installed: chromium")
        self.events: list[dict[str, Any]] = []
        self._number = 0
        self._rest = b""
        self._session: str | None = None
        theirs, self._write = os.pipe()
        self._read, answers = os.pipe()
        high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, _HIGH) for end in (theirs, answers)]
        command = [sys.executable, "-c", _LAUNCH, *map(str, high), program, *_OPTIONS, f"--user-data-dir={profile}"]
        self._process = subprocess.Popen(
            host.argv(command) if host else command,
            pass_fds=high,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for end in (theirs, answers, *high):
            os.close(end)
        try:
            self._attach()
        except BaseException:
            self.close()
            raise

    def _attach(self) -> None:
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the browser."""
        os.close(self._write)  # it ends when nobody speaks to it any more
        try:
            self._process.wait(_WAIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._read)

    def open(self, address: str) -> None:
        """Open a page, and wait until all of it is there."""
        self.events.clear()
        self.ask("Page.navigate", url=address)
        if not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._until(lambda event: event.get("method") == "Page.loadEventFired"))

    def look(self, width: int, scheme: str, *, phone: bool = False) -> None:
        """Set the window to a width in CSS pixels, and the user a taste: "light" or "dark"."""
        scale = 2 if phone else 1
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=scale, mobile=phone)
        self.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def evaluate(self, expression: str) -> Any:
        """Return what an expression is in the page; of a promise, what it becomes."""
        answer = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def picture(self, most: int = 20_000) -> bytes:
        """Return the page as a PNG, its top `most` pixels."""
        size = self.ask("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], most), "scale": 1}
        answer = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        return base64.b64decode(answer["data"])

    def paper(self) -> bytes:
        """Return the page as it would be printed, a PDF."""
        answer = self.ask("Page.printToPDF", printBackground=True, paperWidth=8.27, paperHeight=11.69)
        return base64.b64decode(answer["data"])

    def until(self, expression: str) -> None:
        """Wait until an expression, or what it promises, is true."""
        self.evaluate(UNTIL.format(expression))

    def complaints(self) -> list[str]:
        """Give all that the page made the browser say: errors, warnings, refusals by the page's own policy."""
        methods = ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")
        return [json.dumps(event["params"]) for event in self.events if event.get("method") in methods]

    def requests(self) -> list[str]:
        """Return the address of each thing that was asked for."""
        sent = (event for event in self.events if event.get("method") == "Network.requestWillBeSent")
        return [event["params"]["request"]["url"] for event in sent]

    def ask(self, method: str, **words: object) -> Any:
        """Call a method of the protocol, and give its answer."""
        self._number += 1
        number = self._number
        call: dict[str, object] = {"id": number, "method": method, "params": words}
        if self._session is not None:
            call["sessionId"] = self._session
        os.write(self._write, json.dumps(call).encode() + b"\0")
        answer = self._until(lambda event: event.get("id") == number)
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def _until(self, is_it: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Read on until it comes, and keep what else comes."""
        deadline_s = time.monotonic() + _WAIT_S
        while True:
            event = self._next(deadline_s)
            if is_it(event):
                return event
            self.events.append(event)

    def _next(self, deadline_s: float) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._read], [], [], max(0.0, deadline_s - time.monotonic()))
            assert ready, "the browser does not answer"
            raw = os.read(self._read, 1 << 20)
            assert raw, f"the browser has ended (status {self._process.poll()})"
            self._rest += raw
        one, _, self._rest = self._rest.partition(b"\0")
        event: dict[str, Any] = json.loads(one)
        return event
