"""knockd on a lab's host, Debian's or doorward's own, with its log file read as it is written."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

from doorward.lab.namespace import NamespaceHost
from doorward.lab.topology import Lab
from doorward.model import Packet, Port
from tests.support.daemon import PATIENCE_S, standing_lab, until
from tests.support.forked import ForkedProcess
from tests.support.frames import FrameSender

SYN = 2
_END = "\0"  # written into the log by its reader, so that the reader ends


class Program(NamedTuple):
    """How a knockd is called."""

    name: str
    command: tuple[str, ...]


DEBIAN = Program("debian", ("stdbuf", "-oL", "/usr/sbin/knockd"))  # else its output waits in a buffer
KERNEL, RING = (
    Program(engine, (sys.executable, "-m", "doorward.cli.knockd", "--engine", engine)) for engine in ("kernel", "ring")
)
OURS = (KERNEL, RING)


def mounted(program: Program, places: Mapping[str, Path]) -> Program:
    """Let the program, and nobody else, see the test's files or folders in other places.

    The lab runs each program in a mount namespace of its own.
    """
    mounts = "".join(f"mount --bind {ours} {place} && " for place, ours in places.items())
    return program._replace(command=("sh", "-c", mounts + 'exec "$@"', "sh", *program.command))


class Lines:
    """Lines of text as somebody else writes them."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._more = threading.Condition()

    def add(self, line: str) -> None:
        with self._more:
            self._lines.append(line)
            self._more.notify_all()

    def all(self) -> list[str]:
        with self._more:
            return list(self._lines)

    def await_count(self, count: int, matches: Callable[[str], bool]) -> list[str]:
        """Wait until so many lines match; gives all lines that do."""

        def found() -> list[str]:
            return [line for line in self._lines if matches(line)]

        with self._more:
            enough = self._more.wait_for(lambda: len(found()) >= count, PATIENCE_S)
            assert enough, f"{len(found())} of {count} in: {self._lines[-60:]}"
            return found()


class RunningKnockd:
    """One program on one host; `text` is the configuration without [options]."""

    def __init__(
        self, program: Program, host: NamespaceHost, folder: Path, text: str, *words: object, **keep: str
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.program, self.host, self.folder = program, host, folder
        self.interface = keep.get("interface", "eth0")
        self.config, self.state, self._fifo = folder / "knockd.conf", folder / "state", folder / "log"
        self.log, self.output, self.errors = Lines(), Lines(), Lines()
        if not self._fifo.exists():
            os.mkfifo(self._fifo)  # its lines are events, and no file must be looked at again and again
        self._log_end = os.open(self._fifo, os.O_RDWR)
        self._threads = [threading.Thread(target=self._read_log, daemon=True)]
        self._threads[0].start()
        self.write(text)
        words = ("-v", "-c", self.config, *words)
        environment = {"STATE_DIRECTORY": str(self.state), **{k: v for k, v in keep.items() if k.isupper()}}
        self.process: subprocess.Popen[str] | ForkedProcess
        if program in OURS:
            whole = ("--engine", program.name, *words)
            self.process = ForkedProcess(host, "knockd", whole, environment, subprocess.PIPE)
        else:
            self.process = host.popen([*program.command, *words], env=environment, stderr=subprocess.PIPE)
        for pipe, lines in ((self.process.stdout, self.output), (self.process.stderr, self.errors)):
            assert pipe is not None
            thread = threading.Thread(target=_read, args=(pipe.readline, lines), daemon=True)
            thread.start()
            self._threads.append(thread)
        self.await_line(f"starting up, listening on {self.interface}")

    def write(self, text: str) -> None:
        """Write the configuration without a signal to knockd."""
        self.config.write_text(f"[options]\nLogFile = {self._fifo}\nInterface = {self.interface}\n{text}")

    def reload(self, text: str) -> None:
        """Write another configuration and have it read."""
        self.write(text)
        self.send_signal(signal.SIGHUP)
        self.await_line(f"re-reading config file: {self.config}")

    def lines(self) -> list[str]:
        """Return the log so far without dates and empty lines."""
        return [undated(line) for line in self.log.all() if line]

    def await_line(self, wanted: str, count: int = 1) -> None:
        """Wait until the log has a line so many times."""
        self.log.await_count(count, lambda line: undated(line) == wanted)

    def await_part(self, part: str, count: int = 1) -> list[str]:
        """Wait until so many lines of the log contain `part`; gives those lines."""
        return [undated(line) for line in self.log.await_count(count, lambda line: part in line)]

    def opened(self) -> set[tuple[str, str]]:
        """Give who opened what so far: address and door."""
        return {
            (address, door)
            for address, door, said in (line.split(": ", 2) for line in self.lines() if line.count(": ") >= 2)
            if said == "OPEN SESAME"
        }

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to a program that runs.

        Debian's knockd frees memory and writes to syslog in the signal's handler, and so waits for itself for ever
        where the signal meets it at a packet: it gets the signal while it waits for packets.
        """
        if self.program.name == DEBIAN.name and number != signal.SIGKILL:
            until(lambda: self.process.poll() is not None or self._awaits_packets())
        if self.process.poll() is None:
            self.process.send_signal(number)

    def kill(self) -> None:
        """End it as a crash does."""
        self.end(signal.SIGKILL)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal, wait for the end, give the exit status; nothing it wrote may be a traceback."""
        self.send_signal(number)
        status = self.process.wait(PATIENCE_S)
        if self._log_end >= 0:
            os.write(self._log_end, f"{_END}\n".encode())
            for thread in self._threads[:1]:
                thread.join(PATIENCE_S)
            os.close(self._log_end)
            self._log_end = -1
        said = "\n".join(self.errors.all())
        assert "Traceback" not in said, said
        return status

    def _awaits_packets(self) -> bool:
        return "poll" in Path(f"/proc/{self.process.pid}/wchan").read_text("ascii")  # its name differs by kernel

    def _read_log(self) -> None:
        with os.fdopen(os.dup(self._log_end), encoding="utf-8", errors="replace") as log:
            _read(log.readline, self.log)


def _read(readline: Callable[[], str], lines: Lines) -> None:
    while (line := readline()) and not line.startswith(_END):
        lines.add(line.removesuffix("\n"))


_DATE = re.compile(r"\[\d{4}-\d\d-\d\d \d\d:\d\d\] (.*)")


def undated(line: str) -> str:
    """Take the date off a line of the log file; one without a date is not a line of the log."""
    match = _DATE.fullmatch(line)
    return match[1] if match else line


@contextmanager
def running_knockd(
    program: Program, host: NamespaceHost, folder: Path, text: str, *words: object, **keep: str
) -> Iterator[RunningKnockd]:
    """Run it until the end of the block."""
    knockd = RunningKnockd(program, host, folder, text, *words, **keep)
    try:
        yield knockd
    finally:
        knockd.end()


class Site:
    """A knockd, and the client on its wire."""

    def __init__(self, lab: Lab, knockd: RunningKnockd) -> None:
        self.lab, self.knockd = lab, knockd
        self._frames = FrameSender(lab.client, lab.server)
        self._source_port = 20_000

    def send(self, source: str, *ports: str, flags: int = SYN) -> None:
        """Send a packet to each port; no two come from the same source port, so each starts something new."""
        for port in ports:
            number = Port.parse(f"{port}/tcp" if port.isdigit() else port)
            self._source_port = 20_000 + (self._source_port + 1) % 40_000
            self._frames.send(Packet(ip_address(source).packed, number, flags), self._source_port)

    def retransmit(self, source: str, port: str, flags: int = SYN) -> None:
        """Send the same packet twice."""
        for _ in range(2):
            self._frames.send(Packet(ip_address(source).packed, Port.parse(f"{port}/tcp"), flags), self._source_port)
        self._source_port += 1

    def close(self) -> None:
        self._frames.close()


@contextmanager
def site(program: Program, folder: Path, text: str, *words: object) -> Iterator[Site]:
    """Return a knockd on a lab of its own."""
    with ExitStack() as stack:
        lab = stack.enter_context(standing_lab(direct=True))
        knockd = stack.enter_context(running_knockd(program, lab.server, folder / program.name, text, *words))
        place = Site(lab, knockd)
        stack.callback(place.close)
        yield place


@contextmanager
def sites(programs: Sequence[Program], folder: Path, text: str, *words: object) -> Iterator[list[Site]]:
    """Give several, all with the same configuration."""
    with ExitStack() as stack:
        yield [stack.enter_context(site(program, folder, text, *words)) for program in programs]
