"""The real daemon on a lab's host, and clients that knock with Debian's `knock` from addresses of their own."""

from __future__ import annotations

import io
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from datetime import datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from unittest.mock import patch

from doorward.cli.main import main
from doorward.daemon.control_client import ask
from doorward.errors import HostError, NegativeResult
from doorward.lab.namespace import NamespaceHost
from doorward.lab.topology import Lab
from doorward.model import Address, Element, Port
from doorward.nftables.libnftables import NftFirewall
from tests.conftest import unavailable
from tests.support import shield_object
from tests.support.forked import ForkedProcess
from tests.support.programs import KNOCK

SLOWNESS = float(os.environ.get("DOORWARD_SLOWNESS", "1"))  # above 1 where a processor is emulated
PATIENCE_S = 15.0 * SLOWNESS  # what is awaited comes in milliseconds; only a fault takes longer
LATE_S = 3.0 * SLOWNESS  # by which a busy machine may notice or do something late
SILENCE_S = 0.3 * SLOWNESS  # a SYN that is dropped has no answer; the answer of an open port takes under a millisecond
# TCP repeats a lost SYN after a second, so a connection made in less had its first SYN accepted.
FIRST_SYN_S = min(0.2 * SLOWNESS, 0.9)
DOORWARD = (sys.executable, "-m", "doorward")
# Commands that ask the daemon or read the ledger. Many tests call them, and to start a process takes far longer.
ASKING = {"ban", "close", "log", "open", "status", "unban"}
HOST_FILES = Path("/etc/netns")  # `ip netns exec` puts what is in NAME/ over the files of /etc
FIRST_USER = 20_000  # Debian's knock has no option for the source: each visitor's user has a route that says it

Event = dict[str, Any]


def until(holds: Callable[[], object], found: Callable[[], object] = lambda: "") -> None:
    """Wait for what no event reports: a file that another process writes, a process that begins."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline_s, f"it never came true; {found()}"
        time.sleep(0.01)


@contextmanager
def standing_lab(*, direct: bool = False) -> Iterator[Lab]:
    """Return a lab that several tests share."""
    with ExitStack() as stack:
        try:
            lab = stack.enter_context(Lab(direct=direct))
        except HostError as error:
            unavailable(str(error))
        yield lab


def seconds_of(text: str) -> float:
    """Return the seconds since the epoch of a time in a command's JSON, which has a zone."""
    moment = datetime.fromisoformat(text)
    assert moment.tzinfo is not None
    return moment.timestamp()


class RunningDaemon:
    """`doorward run` on a host, with folders of its own; its log is read as it comes."""

    wrapper: Sequence[str] = ()  # the words of a program that starts it, as `setpriv` does

    def __init__(self, host: NamespaceHost, folder: Path, config_text: str) -> None:
        self.host, self.folder = host, folder
        folders = {kind: folder / kind.lower() for kind in ("RUNTIME", "STATE", "CONFIGURATION")}
        for path in folders.values():
            path.mkdir(parents=True, exist_ok=True)
        self.control, self.state = folders["RUNTIME"] / "control.sock", folders["STATE"]
        self.config = folders["CONFIGURATION"] / "doorward.toml"
        self.config.write_text(shield_object.added(config_text))
        self.env = {f"{kind}_DIRECTORY": str(path) for kind, path in folders.items()}
        self.lines: list[str] = []
        self._taken: set[int] = set()  # events that were awaited already
        self._more = threading.Condition()
        self._notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notices.bind(str(folder / "notify"))
        self._noticed: list[str] = []  # what the service manager received
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def start(self, *words: str) -> None:
        """Start, with these words after `run`, and wait for READY=1."""
        environment = {**self.env, "NOTIFY_SOCKET": str(self.folder / "notify")}
        command = ["run", "--log-format", "json", *words]
        # Only `ip netns exec` gives it the namespace's own /sys, which the shield reads, and files in /etc.
        has_own = HOST_FILES.joinpath(self.host.namespace).exists()
        if self.wrapper or has_own or (self.config.exists() and "shield" in self.config.read_text()):
            whole = [*self.wrapper, *DOORWARD, *command]
            pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
            self.process: subprocess.Popen[str] | ForkedProcess = self.host.popen(whole, env=environment, **pipes)
        else:
            self.process = ForkedProcess(self.host, "doorward", command, environment, subprocess.DEVNULL)
        self._reader = threading.Thread(target=self._read, args=(self.process,), daemon=True)
        self._reader.start()
        self.await_notice("READY=1")
        self._await_shield()

    def await_notice(self, wanted: str) -> None:
        """Wait for a line sent to the service manager; each is given out once."""
        with self._more:
            was_notified = self._more.wait_for(lambda: wanted in self._noticed, PATIENCE_S)
            assert was_notified, f"no {wanted}; the daemon wrote: {self.lines}"
            self._noticed.remove(wanted)

    def events(self) -> list[Event]:
        """Give every line of the log so far."""
        with self._more:
            return [json.loads(line) for line in self.lines]

    def event(self, event: str, **fields: object) -> Event:
        """Wait for an event with these fields; each is given out once, in whatever order they are asked for."""
        return self._take(lambda found: {"event": event, **fields}.items() <= found.items(), f"{event} {fields}")

    def message(self, part: str) -> Event:
        """Wait for a message in words that contains `part`."""
        return self._take(lambda found: part in found.get("message", ""), part)

    def _take(self, matches: Callable[[Event], bool], wanted: str) -> Event:
        deadline_s = time.monotonic() + PATIENCE_S
        with self._more:
            while True:
                for index, line in enumerate(self.lines):
                    found: Event = json.loads(line)
                    if index not in self._taken and matches(found):
                        self._taken.add(index)
                        return found
                left_s = deadline_s - time.monotonic()
                assert left_s > 0, f"no {wanted} in: {self.lines}"
                self._more.wait(left_s)

    def run(self, *words: object, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a doorward command with the daemon's folders: in this process where the namespace does not matter."""
        if words[0] not in ASKING or "--fleet" in words:
            return self.host.run([*DOORWARD, *words], env=self.env, check=check)
        with (
            redirect_stdout(io.StringIO()) as out,
            redirect_stderr(io.StringIO()) as err,
            patch.dict(os.environ, self.env),
        ):
            status = main([*map(str, words)])
        done = subprocess.CompletedProcess([*map(str, words)], status, out.getvalue(), err.getvalue())
        assert not check or status == 0, done
        return done

    def ask(self, command: str, **fields: object) -> Event:
        """Ask on the control socket, as the commands do but without starting one."""
        answer: Event = ask(self.control, {"command": command, **fields})
        return answer

    def openings(self) -> list[Event]:
        """Return the openings that the daemon lists."""
        openings: list[Event] = self.ask("status")["openings"]
        return openings

    def elements(self) -> dict[Element, float]:
        """Read the open sets from the kernel."""
        return self.host.call(NftFirewall().elements)

    def await_end(self, element: Element) -> float:
        """Ask the kernel until its timer has ended an entry, which no event tells; gives the moment."""
        until(lambda: element not in self.elements())
        return time.monotonic()

    def ruleset(self) -> str:
        """Read the rules from the kernel, without counts and elements."""
        return self.host.run(["nft", "-s", "-t", "list", "ruleset"]).stdout

    def counters(self) -> dict[str, int]:
        """Read the gate's counters from the kernel."""
        return self.host.call(NftFirewall().counters)

    def log(self, *words: object) -> list[Event]:
        """Read the ledger with `doorward log`."""
        return [json.loads(line) for line in self.run("log", "--json", *words).stdout.splitlines()]

    def reload(self, config_text: str) -> None:
        """Write another configuration and wait until it is in force."""
        was_added = shield_object.is_added(self.config)  # otherwise its loader was not started
        self.config.write_text(shield_object.added(config_text) if was_added else config_text)
        self.process.send_signal(signal.SIGHUP)
        self.await_notice("READY=1")
        self.message("reloaded: ")
        self._await_shield()

    def _await_shield(self) -> None:
        """Wait for the shield that DOORWARD_SHIELD=on adds: it is attached a moment later."""
        if shield_object.is_added(self.config):
            until(lambda: (shield := self.ask("status")["shield"])["interfaces"] or shield["trouble"])
            if trouble := self.ask("status")["shield"]["trouble"]:
                shield_object.cannot_load(trouble)

    def close_openings(self) -> None:
        """Close what is open."""
        for opening in self.openings():
            with suppress(NegativeResult):  # it has ended meanwhile
                self.ask("close", door=opening["door"], address=opening["address"])

    def renew(self, config_text: str) -> None:
        """Return to the state after the start, for another test: it runs with this configuration, nothing is open."""
        self.forget()
        has_ended = self.process.poll() is not None
        if has_ended or self.config.read_text() != config_text:
            if has_ended:
                self.config.write_text(config_text)
                self.start()
            else:
                self.reload(config_text)
            if "[signed]" in config_text:
                self.message("accepting signed knocks")
        self.close_openings()
        self.forget()

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal, wait for the end, and give the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        status = self.process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        return status

    def close(self) -> None:
        """End what runs; every line that the daemon ever wrote must be an event, hence no traceback."""
        if hasattr(self, "process"):
            self.end()
        self._notices.shutdown(socket.SHUT_RD)  # wakes the listener, for good
        self._listener.join()
        self._notices.close()
        self._check_lines()

    def forget(self) -> None:
        """Drop the log and the notices so far, for another test with the same daemon."""
        with self._more:
            self._check_lines()
            self.lines, self._taken, self._noticed = [], set(), []

    def _check_lines(self) -> None:
        foreign = [line for line in self.lines if not line.startswith("{")]
        assert not foreign, "".join(foreign)

    def _listen(self) -> None:
        while notice := self._notices.recv(4096):
            with self._more:
                self._noticed += notice.decode().splitlines()
                self._more.notify_all()

    def _read(self, process: subprocess.Popen[str] | ForkedProcess) -> None:
        assert process.stderr is not None
        for line in process.stderr:
            with self._more:
                self.lines.append(line)
                self._more.notify_all()


@contextmanager
def running_daemon(host: NamespaceHost, folder: Path, config_text: str) -> Iterator[RunningDaemon]:
    """Run the daemon on a host until the end of the block; nothing that it wrote may be a traceback."""
    daemon = RunningDaemon(host, folder, config_text)
    try:
        daemon.start()
        yield daemon
    except BaseException:
        with suppress(AssertionError):  # the first fault is the one to show
            daemon.close()
        raise
    daemon.close()


class Visitor:
    """One address of a host's, which knocks and connects."""

    def __init__(self, host: NamespaceHost, source: Address, server: Address, user: int = 0) -> None:
        self.host, self.source, self.server, self.user = host, source, server, user

    def __str__(self) -> str:
        return str(self.source)

    def knock(self, *ports: object, delay_ms: int = 0) -> None:
        """Knock with Debian's knock, to its end."""
        assert self.start_knock(*ports, delay_ms=delay_ms).wait(PATIENCE_S) == 0

    def start_knock(self, *ports: object, delay_ms: int = 0) -> subprocess.Popen[bytes]:
        """Start Debian's knock; `ports` as it takes them, like 7000 or 7000:udp."""
        delay = ["-d", delay_ms] if delay_ms else []
        command = [KNOCK, f"-{self.source.version}", *delay, self.server, *ports]
        return self.host.call(subprocess.Popen, [str(word) for word in command], user=self.user)

    def connect(self, port: int = 22, timeout_s: float = FIRST_SYN_S) -> socket.socket:
        """Connect; TimeoutError where the first SYN has no answer in time."""
        address = (str(self.server), port)
        return self.host.call(socket.create_connection, address, timeout_s, (str(self.source), 0))

    def knock_and_connect(self, *ports: object, port: int = 22) -> socket.socket:
        """Knock and connect with nothing between, in one thread."""
        command = [str(word) for word in (KNOCK, f"-{self.source.version}", self.server, *ports)]
        address, source = (str(self.server), port), (str(self.source), 0)

        def both() -> socket.socket:
            subprocess.run(command, user=self.user, check=True)
            return socket.create_connection(address, FIRST_SYN_S, source)

        return self.host.call(both)

    def gets_in(self, port: int = 22) -> bool:
        """Tell whether a connection comes about, with the answer that the port gives."""
        try:
            self.connect(port, SILENCE_S).close()
        except TimeoutError:
            return False
        return True

    def element(self, port: str = "22/tcp") -> Element:
        """Return the entry of the gate's sets that lets this visitor in."""
        return Element(self.source, Port.parse(port))


class Visitors:
    """Gives out visitors, each with an address that no test had before (IPv6: a network, for the limiter)."""

    def __init__(self, lab: Lab) -> None:
        self._lab, self._numbers = lab, itertools.count(1)
        self._ways = {version: lab.client.ip(*_route_to(lab.server, version)) for version in (4, 6)}

    def fresh(self, version: int) -> Visitor:
        """Return a visitor that nobody knows."""
        return self.crowd(version, 1)[0]

    def crowd(self, version: int, count: int) -> list[Visitor]:
        """Give several at once."""
        server = self._lab.server.ipv4 if version == 4 else self._lab.server.ipv6
        way = json.loads(self._ways[version])[0]
        via = f"via {way['gateway']} " if "gateway" in way else ""
        lines, crowd = [], []
        for number in itertools.islice(self._numbers, count):
            source = ip_address(f"10.1.{number >> 8}.{number & 255}" if version == 4 else f"2001:db8:f:{number:x}::1")
            visitor = Visitor(self._lab.client, source, server, FIRST_USER + number)
            lines += [
                f"rule add uidrange {visitor.user}-{visitor.user} lookup {visitor.user}",
                f"route add {server} {via}dev {way['dev']} src {source} table {visitor.user}",
            ]
            crowd.append(visitor)
        self._lab.client.add_addresses(visitor.source for visitor in crowd)
        self._lab.client.ip(f"-{version}", batch=lines)
        return crowd


def echoes(connection: socket.socket) -> bool:
    """Return whether the greeter echoes a line on a connection; it may send its welcome first."""
    connection.settimeout(PATIENCE_S)
    connection.sendall(b"are you there\n")
    received = b""
    while not received.endswith(b"are you there\n"):
        if not (part := connection.recv(100)):
            return False
        received += part
    return True


def _route_to(server: NamespaceHost, version: int) -> tuple[str, ...]:
    return ("-j", "route", "get", str(server.ipv4 if version == 4 else server.ipv6))
