"""A small process that runs the doors' commands, and nothing else.

It takes only (door, address, open or close; of a refusal one word why), or to read the configuration again, or to keep
a copy of it (last_good.py). It has the commands from there itself: an attacker who takes over the daemon or the part
that reads untrusted packets can choose neither a program nor a file. It checks each request
itself, and a request of any other form ends it: only a daemon that was taken over sends one, and its rights go with it.
It keeps the rights that it was started with, also where the daemon gives up its own. No process waits for an opening
to end: a command starts when it is due.
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
from doorward.model import Place, parse_place, place_text

MAX_AT_ONCE = 32  # commands that run side by side; more wait their turn
MAX_ASKED = 2 * MAX_AT_ONCE  # requests on their way: few enough for the socket's buffer, whatever waits
MAX_SECONDS = 300.0  # a command that runs longer hangs: it is ended
LAST_COMMANDS_S = 2.0  # a daemon that ends waits so long for commands; what has not ended stays owed
MAX_OUTPUT_BYTES = 4096  # of each command, for the log
_MESSAGE_BYTES = 1 << 16
_DIGEST = re.compile("[0-9a-f]{64}")  # SHA-256


class HookReport(NamedTuple):
    """What the runner tells: "running", "output", "done" (`status` is the exit status), "hangs", "unread", "unkept"."""

    number: int
    event: str
    text: str
    status: int


Source = Callable[[], Commands]
Keep = Callable[[str], None]


class HookRunner:
    """The parent's side. `on_report` is called from the loop for each report.

    It begins with `commands`, and `reload` has it take those that `source` gives; `keep` has it call `keeper`.
    """

    _numbers = itertools.count(1)  # of all runners: one may still report when the next has begun

    def __init__(
        self,
        commands: Commands,
        loop: EventLoop,
        on_report: Callable[[HookReport], None],
        lock: Path,
        *,
        first: bool,
        source: Source | None = None,
        keeper: Keep | None = None,
    ) -> None:
        self._loop, self._on_report = loop, on_report
        self._waiting: deque[bytes] = deque()
        self._asked = 0  # requests that were sent and are not done
        self._finishing = False
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.pid = os.fork()
        if self.pid == 0:
            # Later: a daemon that is refused, since another one runs, must leave no process that waits for that one's.
            begin = partial(_wait_for_orphans, lock, first=first)
            _serve(theirs.detach(), lambda sock: _Server(sock, commands, source, keeper, begin))
        theirs.close()
        self._socket = ours
        loop.on_readable(ours.fileno(), self._read)

    def run(self, door: str, address: Place, what: str, reason: str = "") -> int:
        """Have a door's command run; give the number that its reports will carry. `reason`: one word, of a refusal."""
        return self._ask(what, door=door, address=place_text(address), reason=reason)

    def reload(self) -> None:
        """Have it read the commands anew, for all that it is asked from now on; "unread" tells that it could not."""
        self._ask("reload")

    def keep(self, digest: str) -> None:
        """Have it keep a copy of the configuration whose text has this digest; "unkept" reports that it could not."""
        self._ask("keep", reason=digest)

    def finish(self) -> None:
        """Take no more requests, report on those that there are, and end then."""
        self._finishing = True
        self._send()

    def drain(self) -> None:
        """Finish, and report outside the loop, for LAST_COMMANDS_S at most, on what still runs."""
        self.finish()
        until_s = self._loop.now_s() + LAST_COMMANDS_S
        while self._socket.fileno() >= 0:
            if not select.select([self._socket], [], [], max(0.0, until_s - self._loop.now_s()))[0]:
                return
            self._read()

    def close(self) -> None:
        """Let it end once its commands have; what it still has to say is not waited for."""
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
        """Ask for what waits. Both sides would wait for ever, each for the other to read, were it all at once."""
        with suppress(OSError):  # it has ended; `_read` is told
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
            self._on_report(report)
            return
        self._waiting.clear()
        self.close()
        os.waitpid(self.pid, 0)
        if not self._finishing:
            self._on_report(HookReport(0, "gone", "the process that runs commands ended", 1))


class HookRequest(NamedTuple):
    """What the child is asked for: a door's command for "open" or "close"; to "reload"; to "keep" what has a digest.

    The digest, of the configuration in force, is the `reason`; neither of the last two has an address.
    """

    number: int
    what: str
    door: str
    address: Place | None
    reason: str


def parse_request(raw: bytes) -> HookRequest:
    """Read a request, trusting nothing in it. MalformedError for any other bytes."""
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
        return HookRequest(number, what, door, parse_place(address), reason)
    except (ValueError, TypeError, RecursionError) as error:
        raise MalformedError(f"command runner: invalid request: {error}") from None


class _Running(NamedTuple):
    number: int
    process: subprocess.Popen[bytes]
    key: tuple[str, Place]
    pipe: int
    output: bytearray


class _Server:
    """The child's side."""

    def __init__(
        self,
        sock: socket.socket,
        commands: Commands,
        source: Source | None,
        keeper: Keep | None,
        begin: Callable[[], None],
    ) -> None:
        self.loop = EventLoop()
        self._begin: Callable[[], None] | None = begin  # called before the first request is looked at
        self._socket, self._commands, self._source, self._keeper = sock, commands, source, keeper
        self._waiting: deque[tuple[int, tuple[str, Place], Command]] = deque()
        self._running: dict[int, _Running] = {}
        self._asked = True
        self.loop.on_readable(sock.fileno(), self._read)

    def _read(self) -> None:
        raw = recv(self._socket, _MESSAGE_BYTES)
        if not raw:  # the daemon is gone: finish what runs and what waits
            self.loop.unregister(self._socket.fileno())
            self._asked = False
            self._next()
            return
        if self._begin is not None:
            self._begin()
            self._begin = None
        request = parse_request(raw)
        if request.what == "keep":
            self._keep(request.number, request.reason)
        elif request.address is None:
            self._reload(request.number)
        else:
            self._take(request, request.address)
        self._next()

    def _take(self, request: HookRequest, address: Place) -> None:
        """Choose the command now: what was asked for before a reload is what the configuration said then."""
        known = self._commands.get(request.door)
        command = known.of(request.what, address) if known else None
        if command:
            key = request.door, address
            self._waiting.append((request.number, key, filled(command, address, request.reason)))
        else:
            words = "" if known else f"{request.door}: the configuration has no such door"
            self._tell(request.number, "done", words, 0)

    def _reload(self, number: int) -> None:
        try:
            if self._source is not None:
                self._commands = run_in_child(self._source)
        except DoorwardError as error:
            self._tell(number, "unread", str(error)[:MAX_OUTPUT_BYTES], 0)
        self._tell(number, "done", "", 0)

    def _keep(self, number: int, digest: str) -> None:
        keeper = self._keeper
        try:
            if keeper is not None:
                run_in_child(lambda: keeper(digest))
        except DoorwardError as error:
            self._tell(number, "unkept", str(error)[:MAX_OUTPUT_BYTES], 0)
        self._tell(number, "done", "", 0)

    def _next(self) -> None:
        """Start what may start: in order, one command a door and address at a time."""
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

    def _start(self, number: int, key: tuple[str, Place], command: Command) -> None:
        self._tell(number, "running", text_of(command), 0)
        pipe, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(write, True)
        try:
            process = subprocess.Popen(
                argv_of(command), stdin=subprocess.DEVNULL, stdout=write, stderr=write, start_new_session=True, cwd="/"
            )
        except OSError as error:
            os.close(pipe)
            self._tell(number, "output", f"{error.filename}: {error.strerror}", 0)
            self._tell(number, "done", "", 127)
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
        """Report what the command wrote and how it ended; a child of its own may still hold the pipe."""
        running = self._running.pop(handle)
        self.loop.unregister(handle)
        os.close(handle)
        status = running.process.wait()
        self._drain(running)
        with suppress(KeyError):
            self.loop.unregister(running.pipe)
        os.close(running.pipe)
        if output := running.output.decode(errors="replace").strip():
            self._tell(running.number, "output", output, 0)
        self._tell(running.number, "done", "", status if status >= 0 else 128 - status)
        self._next()

    def _drain(self, running: _Running) -> None:
        """Read on, so that a command that writes much goes on; keep the beginning."""
        with suppress(BlockingIOError):
            while part := os.read(running.pipe, 1 << 16):
                running.output.extend(part[: MAX_OUTPUT_BYTES - len(running.output)])
            with suppress(KeyError):
                self.loop.unregister(running.pipe)  # closed at the other end

    def _end(self, handle: int, process: subprocess.Popen[bytes]) -> None:
        if (running := self._running.get(handle)) is not None and running.process is process:
            self._tell(running.number, "hangs", f"ended after {MAX_SECONDS:.0f}s", 0)
            os.killpg(process.pid, signal.SIGKILL)

    def _tell(self, number: int, event: str, text: str, status: int) -> None:
        with suppress(OSError):  # the daemon may be gone: the commands run all the same
            self._socket.send(json.dumps({"number": number, "event": event, "text": text, "status": status}).encode())


def _wait_for_orphans(lock: Path, *, first: bool) -> None:
    """Hold `lock` until this process ends; the `first` runner of a daemon waits for those of one that was killed.

    Else a slow command to open, begun before, could end after this daemon's command to close. Where the lock cannot
    be made, nothing is waited for.
    """
    with suppress(OSError):
        # The folder may be a lesser user's, who could have left a link to some other file there.
        held = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        if first:
            fcntl.flock(held, fcntl.LOCK_EX)
        fcntl.flock(held, fcntl.LOCK_SH)  # beside the runner that a reload leaves to finish


def _serve(descriptor: int, server: Callable[[socket.socket], _Server]) -> None:
    """Run the child until the daemon is gone and every command has ended."""
    status = 1
    try:
        close_descriptors_except((*STANDARD, descriptor))
        privileges.deny_tracing()  # a process that was taken over could choose a program here
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # Those are for the daemon, which closes the socket; a handler, since what is ignored stays so in commands.
            signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(-1)
        os.umask(0o022)
        server(socket.socket(fileno=descriptor)).loop.run()
        status = 0
    finally:
        os._exit(status)
