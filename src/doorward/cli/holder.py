"""Hold a door open by `client/hold.py`: the clock, the routes, the packets, the command and the signals."""

from __future__ import annotations

import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from functools import partial
from ipaddress import ip_address

from doorward.cli.confirmation import require_all
from doorward.cli.knock_options import KnockPlan, plan_targets, print_sent
from doorward.cli.knocker import reply_listener
from doorward.cli.signed_options import build_requests, packet_text
from doorward.client import hold
from doorward.client.confirmation import ReplyListener
from doorward.client.hold import DEFAULT_FOR_S, LEAST_FOR_S, HoldAction, Routes, Step
from doorward.client.sequence import Target, UnreachableError, first_per_family
from doorward.client.signed import KnockRequest, SentPacket, send
from doorward.client.signers import Signer
from doorward.errors import DoorwardError, HostError, NegativeResult, UsageError
from doorward.escape import visible
from doorward.kernel.event_loop import Alarm, EventLoop
from doorward.kernel.route_monitor import RouteMonitor
from doorward.model import Port
from doorward.signed.message import CLOSE

_OPENING_S = 0.1  # a gate opens a door within milliseconds; a command whose first SYN is earlier waits a second
# Between looks at the routes: a change comes as many notifications, and a hostile network can send them without end.
_BURST_S = 0.05
_DISCARD = 9
# For a confirmation: how many seconds the door is open, None if that is not known. NegativeResult: none has come.
_Wait = Callable[[], float | None]
_UNCONFIRMED = 2  # knocks in a row, before a warning: one packet may be lost
_FROM_KEYS, _OTHERS = (
    [getattr(signal, name) for name in names if hasattr(signal, name)]  # Windows has two of them
    for names in (("SIGINT", "SIGQUIT"), ("SIGTERM", "SIGHUP"))
)
_NOT_EXECUTABLE, _NOT_FOUND, _KILLED = 126, 127, 128  # as in sh(1)


def hold_door(plan: KnockPlan, family: int, command: list[str], *, verbose: bool) -> int:
    """Knock, run the command, and hold the door open until it ends; return its exit status."""
    requests, signer = build_requests(plan)
    for_s = _opening_time(plan, signer)
    packets = _Packets(plan, family, [request._replace(for_s=for_s) for request in requests], signer, verbose)
    wait = packets.knock()  # an error here ends it all
    holder = _Holder(packets, for_s, command)
    try:
        return holder.run(wait, f"holding {plan} of {plan.host.name} open; Ctrl-C closes it")
    finally:
        holder.close()


def _opening_time(plan: KnockPlan, signer: Signer) -> int:
    for_s = plan.host.for_s
    if for_s is None and signer.needs_touch:
        raise UsageError(
            "touch-needs-for",
            f"each knock needs a touch of {signer.name}; add --for TIME, such as 8h, as long as the key's for-max "
            "allows, or hold the door with a key that needs none",
        )
    if for_s is not None and for_s < LEAST_FOR_S:
        raise UsageError("hold-too-short", f"--for: {for_s}s is too short to hold; write at least {LEAST_FOR_S}s")
    return DEFAULT_FOR_S if for_s is None else for_s


class _Packets:
    """Sends the packets that open and close the doors; safe to use from threads, which send one after the other."""

    def __init__(
        self, plan: KnockPlan, family: int, requests: list[KnockRequest], signer: Signer, verbose: bool
    ) -> None:
        self._plan, self._family, self._requests, self._verbose = plan, family, requests, verbose
        self._lock = threading.Lock()
        self._is_closed = False
        self._newest: ReplyListener | None = None
        self.signer = signer
        self.targets = plan_targets(plan, family)

    def knock(self) -> _Wait:
        """Send packets that open; none after `close`. A DoorwardError: they could not be signed, or not be sent."""
        replies = reply_listener(self._plan)
        with self._lock, ExitStack() as on_error:
            if self._is_closed:
                return lambda: None
            if replies is not None:
                on_error.callback(replies.close)
            self._send(self._requests, replies)
            self._newest = replies
            on_error.pop_all()
        return lambda: None if replies is None else self._await(replies)

    def close(self) -> None:
        """Send packets that close, without a confirmation: if they are lost, the opening ends by itself soon."""
        with self._lock:
            self._is_closed = True
            self._send([request._replace(flags=CLOSE, for_s=None) for request in self._requests], None)

    def resolve(self) -> None:
        """Look the host up again: a home server's address may change. It may take as long as the resolver likes."""
        with suppress(DoorwardError):
            self.targets = plan_targets(self._plan, self._family)

    def _await(self, replies: ReplyListener) -> float | None:
        """Wait for the confirmations of a knock. NegativeResult: a door has none."""
        with closing(replies):
            arrived = replies.wait()
        require_all(self._plan, replies, arrived)
        # A knock sent meanwhile counts, perhaps by another route. No seconds: a door that only runs a command.
        times_s = [reply.confirmation.left_s for reply in arrived if reply.confirmation.left_s]
        return min(times_s, default=None) if replies is self._newest else None

    def _send(self, requests: list[KnockRequest], replies: ReplyListener | None) -> None:
        # A network may pass only one of the ports, and nothing says which; a touch is worth one packet.
        ports: tuple[Port, ...] = self._plan.host.signed_ports[: 1 if self.signer.needs_touch else None]
        for request in requests:
            report = partial(self._report, request.door) if self._verbose else None
            faults = []
            for port in ports:
                try:
                    send(request, self.signer, first_per_family(self.targets), port, report=report, replies=replies)
                except UnreachableError as error:  # this host's own packet filter may pass another port
                    faults.append(error)
            if len(faults) == len(ports):
                raise faults[0]

    def _report(self, door: str, sent: SentPacket) -> None:
        _print_error(packet_text(door, self.signer, sent))


class _Holder:
    """Runs the command, and performs what `client/hold.py` returns for each event."""

    def __init__(self, packets: _Packets, for_s: int, command: list[str]) -> None:
        self._packets, self._command = packets, command  # which is empty once it is started
        self._loop = EventLoop()
        self._alarm = Alarm(self._loop, self._look)
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()  # of threads, for the loop
        self._wake_read, self._wake_write = socket.socketpair()
        self._loop.on_readable(self._wake_read.fileno(), self._run_calls)
        self._monitor = _open_monitor()
        if self._monitor is not None:
            self._loop.on_readable(self._monitor.fileno(), self._on_changes)
        self._hold = hold.begin(for_s, self._routes(), _now_s(), needs_touch=packets.signer.needs_touch)
        self._looked_s = self._loop.now_s()
        self._child: subprocess.Popen[bytes] | None = None
        self._status = 0
        self._has_failed = False
        self._unconfirmed = 0  # knocks in a row

    def run(self, wait: _Wait, announcement: str) -> int:
        for number in (*_FROM_KEYS, *_OTHERS):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as below nohup
                self._loop.on_signal(number, partial(self._on_signal, number))
        if self._command:
            self._loop.at(self._loop.now_s() + _OPENING_S, self._start)
        else:
            print_sent(announcement)
        threading.Thread(target=self._await, args=(wait,), daemon=True).start()
        self._alarm.set(self._loop.now_s())
        self._loop.run()
        return self._status

    def close(self) -> None:
        self._loop.close()
        self._wake_read.close()
        self._wake_write.close()
        if self._monitor is not None:
            self._monitor.close()

    def _start(self) -> None:
        command, self._command = self._command, []
        if not command:  # a signal came first
            return
        try:
            self._child = subprocess.Popen(command)
        except OSError as error:
            _print_error(f"doorward: {command[0]}: {error.strerror}; check the command after `--`")
            self._status = _NOT_FOUND if isinstance(error, FileNotFoundError) else _NOT_EXECUTABLE
            self._step(hold.on_end(self._hold, _now_s()))
        else:
            threading.Thread(target=self._await_child, args=(self._child,), daemon=True).start()

    def _await_child(self, child: subprocess.Popen[bytes]) -> None:
        """Wait in a thread: Windows has no SIGCHLD."""
        status = child.wait()
        self._call(partial(self._on_child, status))

    def _on_child(self, status: int) -> None:
        self._child, self._status = None, status if status >= 0 else _KILLED - status
        self._step(hold.on_end(self._hold, _now_s()))

    def _on_signal(self, number: signal.Signals) -> None:
        """Pass a signal on to the command, whose end is awaited; without a command it is the end."""
        if self._child is None:
            if self._command:
                self._command, self._status = [], _KILLED + number
            self._step(hold.on_end(self._hold, _now_s()))
        elif number not in _FROM_KEYS or not _is_from_terminal():
            self._child.send_signal(number)

    def _on_changes(self) -> None:
        assert self._monitor is not None  # noqa: S101
        self._monitor.drain()
        self._alarm.set(max(self._loop.now_s(), self._looked_s + _BURST_S))

    def _look(self) -> None:
        self._looked_s = self._loop.now_s()
        self._step(hold.on_look(self._hold, _now_s(), self._routes()))

    def _routes(self) -> Routes:
        return tuple(_route(self._monitor, target) for target in first_per_family(self._packets.targets))

    def _step(self, step: Step) -> None:
        self._hold, action = step
        if action is HoldAction.KNOCK:
            threading.Thread(target=self._knock, daemon=True).start()
        elif action is HoldAction.CLOSE:
            threading.Thread(target=self._close_door, daemon=True).start()
        elif action is HoldAction.EXIT:
            self._loop.stop()
        self._alarm.set(self._loop.now_s() + max(0.0, self._hold.next_s - _now_s()))

    def _knock(self) -> None:
        """Knock, in a thread: a touch, an agent or a resolver may take its time."""
        error: DoorwardError | None = None
        try:
            wait = self._packets.knock()
        except DoorwardError as fault:
            error = fault
        self._call(partial(self._on_sent, error))
        if error is None:
            self._await(wait)
        self._packets.resolve()

    def _await(self, wait: _Wait) -> None:
        try:
            left_s = wait()
        except NegativeResult as error:
            self._call(partial(self._on_unconfirmed, error))
        else:
            if left_s is not None:
                self._call(partial(self._on_confirmed, left_s))

    def _on_sent(self, error: DoorwardError | None) -> None:
        if error is not None and not self._has_failed:
            _print_error(f"doorward: warning: {error}; trying again")
        self._has_failed = error is not None
        self._step(hold.on_sent(self._hold, _now_s()))

    def _on_unconfirmed(self, error: NegativeResult) -> None:
        """Warn, once until a confirmation arrives; a packet that costs a touch is not repeated soon."""
        self._unconfirmed += 1
        if self._unconfirmed == (1 if self._packets.signer.needs_touch else _UNCONFIRMED):
            for line in f"warning: {error}".splitlines():
                _print_error(f"doorward: {line}")

    def _on_confirmed(self, left_s: float) -> None:
        self._unconfirmed = 0
        self._step((hold.on_confirmed(self._hold, _now_s(), left_s), HoldAction.NOTHING))

    def _close_door(self) -> None:
        try:
            self._packets.close()
        except DoorwardError as error:
            _print_error(f"doorward: warning: the door is open until its time is over: {error}")
        self._call(lambda: self._step(hold.on_closed(self._hold)))

    def _call(self, call: Callable[[], None]) -> None:
        self._calls.put(call)
        with suppress(OSError):  # the loop has ended meanwhile
            self._wake_write.send(b"\0")

    def _run_calls(self) -> None:
        for _ in self._wake_read.recv(4096):
            self._calls.get()()


def _now_s() -> float:
    if sys.platform == "linux":
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()  # elsewhere than on Linux it counts a suspend, too


def _open_monitor() -> RouteMonitor | None:
    """Return a monitor; None without netlink, where the routes are looked at once a second."""
    with suppress(HostError, OSError):
        return RouteMonitor()
    return None


def _route(monitor: RouteMonitor | None, target: Target) -> object:
    """Return how this host reaches a target; without netlink only its own address. None: there is no route."""
    if monitor is not None:
        interface = target.sockaddr[3] if target.family == socket.AF_INET6 else 0
        return monitor.route_to(ip_address(str(target).partition("%")[0]), int(str(interface)))
    with socket.socket(target.family, socket.SOCK_DGRAM) as connected, suppress(OSError):
        connected.connect(target.at(_DISCARD))
        return connected.getsockname()[0]
    return None


def _is_from_terminal() -> bool:
    """Return whether Ctrl-C in a terminal reaches this process: then it reaches the command, too."""
    if sys.platform == "win32":
        return True
    try:
        with open("/dev/tty", "rb") as terminal:  # noqa: PTH123
            return os.tcgetpgrp(terminal.fileno()) == os.getpgrp()
    except OSError:
        return False


def _print_error(text: str) -> None:
    sys.stderr.write(f"{visible(text)}\n")
