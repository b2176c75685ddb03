"""A small process that runs hooks.

A request names a door, an address and "open" or "close" (and one word as the reason of a rejection), or asks to read
the configuration again, or to save a copy of it (last_good.py). The process reads the commands from the configuration
itself, so that an attacker who compromised the daemon or its packet parser can choose neither a program nor a file. An
invalid request ends the process: only a compromised daemon sends one. The process keeps the privileges that it was
started with, also if the daemon drops its own. No process waits for an opening to end: a command starts when it is due.
"""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import re
import select
import signal
import socket
import subprocess
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

from doorward.daemon.hook_commands import REFUSALS, Command, Commands, argv_of, filled, text_of
from doorward.errors import DoorwardError, MalformedError
from doorward.kernel import privileges
from doorward.kernel.child_process import STANDARD, close_descriptors_except, recv, run_in_child
from doorward.kernel.event_loop import EventLoop
from doorward.model import Source, parse_source, source_text

MAX_AT_ONCE = 32  # concurrent commands; others are queued
MAX_ASKED = 2 * MAX_AT_ONCE  # requests in flight: they fit in the socket's buffer
MAX_SECONDS = 300.0  # a command that runs longer is killed
LAST_COMMANDS_S = 2.0  # a daemon that ends waits this long for commands; the rest stays owed
MAX_OUTPUT_BYTES = 4096  # of each command, for the log
_MESSAGE_BYTES = 1 << 16
_DIGEST = re.compile("[0-9a-f]{64}")  # SHA-256


class HookRun(NamedTuple):
    """A run of a door's command for "open" or "close" and an address; `then` is called when it has ended."""

    door: str
    address: Source
    event: str
    then: Callable[[], None] = lambda: None


class HookReport(NamedTuple):
    """The runner's report: "running", "output", "done" (`status` is the exit status), "hangs", "unread", "unkept"."""

    number: int
    event: str
    text: str
    status: int


ReadCommands = Callable[[], Commands]
Keep = Callable[[str], None]


class HookRunner:
    """The parent's side. `on_report` is called from the loop for each report, with the run that it is about, if any.

    It starts with `commands`; `reload` replaces them by the result of `source`, and `keep` calls `keeper`.
    """

    def __init__(
        self,
        commands: Commands,
        loop: EventLoop,
        on_report: Callable[[HookRun | None, HookReport], None],
        lock: Path,
        *,
        first: bool,
        source: ReadCommands | None = None,
        keeper: Keep | None = None,
    ) -> None:
        self._loop, self._on_report = loop, on_report
        self._waiting: deque[bytes] = deque()
        self._numbers, self._running = itertools.count(1), dict[int, HookRun]()
        self._asked = 0  # requests that were sent and are not done
        self._finishing = False
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.pid = os.fork()
        if self.pid == 0:
            # At the first request: a daemon that exits since another runs must not leave a process that waits for it.
            begin = partial(_wait_for_orphans, lock, first=first)
            _serve(theirs.detach(), lambda sock: _Server(sock, commands, source, keeper, begin))
        theirs.close()
        self._socket = ours
        loop.on_readable(ours.fileno(), self._read)

    @property
    def owed(self) -> list[HookRun]:
        """The runs for "close" that have not ended."""
        return [run for run in self._running.values() if run.event == "close"]

    def run(self, run: HookRun, reason: str = "") -> None:
        """Run a door's command. `reason` is one word, for a rejection."""
        number = self._ask(run.event, door=run.door, address=source_text(run.address), reason=reason)
        self._running[number] = run

    def reload(self) -> None:
        """Read the commands again, for later requests; the report "unread" means that it failed."""
        self._ask("reload")

    def keep(self, digest: str) -> None:
        """Save a copy of the configuration whose text has this digest; the report "unkept" means that it failed."""
        self._ask("keep", reason=digest)

    def finish(self) -> None:
        """Accept no more requests, and end once the present ones are done."""
        self._finishing = True
        self._send()

    def drain(self) -> None:
        """Finish, and report outside the loop on commands that still run, for LAST_COMMANDS_S at most."""
        self.finish()
        until_s = self._loop.now_s() + LAST_COMMANDS_S
        while self._socket.fileno() >= 0:
            if not select.select([self._socket], [], [], max(0.0, until_s - self._loop.now_s()))[0]:
                return
            self._read()

    def close(self) -> None:
        """Let it end once its commands have ended; further reports are ignored."""
        if self._socket.fileno() >= 0:
            with suppress(OSError):  # it ended before
                while self._waiting:
                    readable, writable, _ = select.select([self._socket], [self._socket], [])
                    if readable and not self._socket.recv(_MESSAGE_BYTES):
                        break
                    if writable:
                        self._socket.send(self._waiting.popleft())
            self._loop.unregister(self._socket.fileno())
            self._socket.close()

    def _ask(self, what: str, door: str = "", address: str = "", reason: str = "") -> int:
        number = next(self._numbers)
        self._waiting.append(json.dumps([number, what, door, address, reason]).encode())
        self._send()
        return number

    def _send(self) -> None:
        """Send queued requests, few at a time: with full buffers both sides would block on each other."""
        with suppress(OSError):  # it has ended; `_read` notices
            while self._waiting and self._asked < MAX_ASKED:
                self._socket.send(self._waiting[0])
                self._waiting.popleft()
                self._asked += 1
            if self._finishing and not self._waiting:
                self._socket.shutdown(socket.SHUT_WR)

    def _read(self) -> None:
        raw = recv(self._socket, _MESSAGE_BYTES)
        if raw:
            report = HookReport(**json.loads(raw))
            self._asked -= report.event == "done"
            self._send()
            run = self._running.get(report.number)
            self._on_report(run, report)
            if report.event == "done" and self._running.pop(report.number, None) is not None and run is not None:
                run.then()
            return
        self._waiting.clear()
        self.close()
        os.waitpid(self.pid, 0)
        if not self._finishing:
            self._on_report(None, HookReport(0, "gone", "the process that runs commands ended", 1))


class HookRequest(NamedTuple):
    """A request: a door's command for "open" or "close", "reload", or "keep" with a digest.

    The digest, of the configuration in force, is in `reason`; the last two have no address.
    """

    number: int
    what: str
    door: str
    address: Source | None
    reason: str


def parse_request(raw: bytes) -> HookRequest:
    """Parse a request, which is untrusted. MalformedError: it is invalid."""
    try:
        number, what, door, address, reason = json.loads(raw)
        if type(number) is not int or not all(isinstance(text, str) for text in (what, door, address, reason)):
            raise ValueError("a field of another type")
        if what == "reload" and not (door or address or reason):
            return HookRequest(number, what, "", None, "")
        if what == "keep" and not (door or address) and _DIGEST.fullmatch(reason):
            return HookRequest(number, what, "", None, reason)
        if what not in ("open", "close"):
            raise ValueError("it must open, close, reload or keep")
        if reason and not (door == REFUSALS and reason.isascii() and reason.isalpha()):
            raise ValueError("a reason is one word, and of a refusal")
        return HookRequest(number, what, door, parse_source(address), reason)
    except (ValueError, TypeError, RecursionError) as error:
        raise MalformedError("invalid-request", f"command runner: invalid request: {error}") from None


class _Running(NamedTuple):
    number: int
    process: subprocess.Popen[bytes]
    key: tuple[str, Source]
    pipe: int
    output: bytearray


class _Server:
    """The child's side."""

    def __init__(
        self,
        sock: socket.socket,
        commands: Commands,
        source: ReadCommands | None,
        keeper: Keep | None,
        begin: Callable[[], None],
    ) -> None:
        self.loop = EventLoop()
        self._begin: Callable[[], None] | None = begin  # called before the first request is parsed
        self._socket, self._commands, self._source, self._keeper = sock, commands, source, keeper
        self._waiting: deque[tuple[int, tuple[str, Source], Command]] = deque()
        self._running: dict[int, _Running] = {}
        self._asked = True
        self.loop.on_readable(sock.fileno(), self._read)

    def _read(self) -> None:
        raw = recv(self._socket, _MESSAGE_BYTES)
        if not raw:  # the daemon has exited: finish all commands
            self.loop.unregister(self._socket.fileno())
            self._asked = False
            self._next()
            return
        if self._begin is not None:
            self._begin()
            self._begin = None
        request = parse_request(raw)
        if request.what == "keep":
            self._attempt(request.number, "unkept", lambda: self._keep(request.reason))
        elif request.address is None:
            self._attempt(request.number, "unread", self._reload)
        else:
            self._enqueue(request, request.address)
        self._next()

    def _enqueue(self, request: HookRequest, address: Source) -> None:
        """Queue the command; it is chosen now, so that a later reload does not affect it."""
        known = self._commands.get(request.door)
        command = known.of(request.what, address) if known else None
        if command:
            key = request.door, address
            self._waiting.append((request.number, key, filled(command, address, request.reason)))
        else:
            words = "" if known else f"{request.door}: the configuration has no such door"
            self._report(request.number, "done", words, 0)

    def _reload(self) -> None:
        if self._source is not None:
            self._commands = run_in_child(self._source)

    def _keep(self, digest: str) -> None:
        if (keeper := self._keeper) is not None:
            run_in_child(lambda: keeper(digest))

    def _attempt(self, number: int, failure: str, work: Callable[[], None]) -> None:
        try:
            work()
        except DoorwardError as error:
            self._report(number, failure, str(error)[:MAX_OUTPUT_BYTES], 0)
        self._report(number, "done", "", 0)

    def _next(self) -> None:
        """Start queued commands in order, one at a time for each door and address."""
        busy = {running.key for running in self._running.values()}
        for entry in list(self._waiting):
            if len(self._running) >= MAX_AT_ONCE:
                break
            number, key, command = entry
            if key in busy:
                continue
            busy.add(key)
            self._waiting.remove(entry)
            self._start(number, key, command)
        if not (self._running or self._waiting or self._asked):
            self.loop.stop()

    def _start(self, number: int, key: tuple[str, Source], command: Command) -> None:
        self._report(number, "running", text_of(command), 0)
        pipe, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(write, True)
        try:
            process = subprocess.Popen(
                argv_of(command), stdin=subprocess.DEVNULL, stdout=write, stderr=write, start_new_session=True, cwd="/"
            )
        except OSError as error:
            os.close(pipe)
            self._report(number, "output", f"{error.filename}: {error.strerror}", 0)
            self._report(number, "done", "", 127)
            return
        finally:
            os.close(write)
        ended = os.pidfd_open(process.pid)
        running = _Running(number, process, key, pipe, bytearray())
        self._running[ended] = running
        self.loop.on_readable(pipe, lambda: self._drain(running))
        self.loop.on_readable(ended, lambda: self._ended(ended))
        self.loop.at(self.loop.now_s() + MAX_SECONDS, lambda: self._end(ended, process))

    def _ended(self, handle: int) -> None:
        """Report the command's output and exit status; a child of the command may still have the pipe open."""
        running = self._running.pop(handle)
        self.loop.unregister(handle)
        os.close(handle)
        status = running.process.wait()
        self._drain(running)
        with suppress(KeyError):
            self.loop.unregister(running.pipe)
        os.close(running.pipe)
        if output := running.output.decode(errors="replace").strip():
            self._report(running.number, "output", output, 0)
        self._report(running.number, "done", "", status if status >= 0 else 128 - status)
        self._next()

    def _drain(self, running: _Running) -> None:
        """Read the output, so that the command never blocks; keep the beginning."""
        with suppress(BlockingIOError):
            while part := os.read(running.pipe, 1 << 16):
                running.output.extend(part[: MAX_OUTPUT_BYTES - len(running.output)])
            with suppress(KeyError):
                self.loop.unregister(running.pipe)  # closed at the other end

    def _end(self, handle: int, process: subprocess.Popen[bytes]) -> None:
        if (running := self._running.get(handle)) is not None and running.process is process:
            self._report(running.number, "hangs", f"ended after {MAX_SECONDS:.0f}s", 0)
            os.killpg(process.pid, signal.SIGKILL)

    def _report(self, number: int, event: str, text: str, status: int) -> None:
        with suppress(OSError):  # the daemon may have exited; commands still run
            self._socket.send(json.dumps({"number": number, "event": event, "text": text, "status": status}).encode())


def _wait_for_orphans(lock: Path, *, first: bool) -> None:
    """Hold `lock` until this process ends; the `first` runner of a daemon waits for those of a killed daemon.

    Otherwise an earlier, slow command to open could end after this daemon's command to close. If the lock cannot be
    created, it does not wait.
    """
    with suppress(OSError):
        # An unprivileged owner of the directory could have put a link to another file there.
        held = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        if first:
            fcntl.flock(held, fcntl.LOCK_EX)
        fcntl.flock(held, fcntl.LOCK_SH)  # shared with the runner that finishes after a reload


def _serve(descriptor: int, server: Callable[[socket.socket], _Server]) -> None:
    """Run the child until the daemon has exited and every command has ended."""
    status = 1
    try:
        close_descriptors_except((*STANDARD, descriptor))
        privileges.deny_tracing()  # a compromised process of this user could choose a program here
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # The daemon handles them, and closes the socket. Commands would inherit SIG_IGN, unlike a handler.
            signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(-1)
        os.umask(0o022)
        server(socket.socket(fileno=descriptor)).loop.run()
        status = 0
    finally:
        os._exit(status)
