"""One network namespace of a lab: run programs and functions in it, and end its processes."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from doorward.errors import HostError
from doorward.model import Address

P = ParamSpec("P")
T = TypeVar("T")

NAMESPACES = Path("/run/netns")  # where `ip netns` keeps its names; it creates the directory itself
IP_TIMEOUT_S = 30.0  # `ip` answers in milliseconds; only a stuck kernel takes longer
TERM_PATIENCE_S = 2.0  # time for a daemon to exit cleanly before it is killed
KILL_PATIENCE_S = 5.0  # the kernel may be slow to tear down a big process
CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)  # os.setns came with Python 3.12


def ip(*words: str, batch: Sequence[str] = ()) -> str:
    """Run iproute2's `ip`, with `batch` as the lines of `ip -batch`, and return its output. HostError: it failed."""
    command = ["ip", *words, *(["-batch", "-"] if batch else [])]
    try:
        process = subprocess.run(
            command,
            input="\n".join(batch),
            capture_output=True,
            text=True,
            timeout=IP_TIMEOUT_S,
            check=False,
            process_group=0,  # Ctrl-C must not interrupt it
        )
    except FileNotFoundError:
        raise HostError("missing-program", "the command `ip` is missing; install the package iproute2") from None
    if process.returncode:
        errors = "; ".join(process.stderr.strip().splitlines())
        raise HostError("command-failed", _explained(f"`{' '.join(command)}` said: {errors}"))
    return process.stdout


def _explained(failure: str) -> str:
    if "not permitted" in failure or "Permission denied" in failure:
        return (
            "network namespaces are not permitted here; give this process the capabilities CAP_SYS_ADMIN and "
            f"CAP_NET_ADMIN (a container: --privileged). {failure}"
        )
    if "Unknown device type" in failure:
        return f"this kernel has no veth devices; load or build the module veth. {failure}"
    return failure


def enter(path: Path) -> None:
    """Move the calling thread, and what it starts later, into the network namespace at `path`."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.setns(handle, CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(path))
    finally:
        os.close(handle)


@dataclass(slots=True)
class NamespaceHost:
    """A network namespace that acts as a host; `interface` has its addresses."""

    namespace: str
    interface: str
    ipv4: IPv4Address
    ipv6: IPv6Address
    mac: str
    _started: list[subprocess.Popen[str]] = field(default_factory=list, init=False, repr=False)

    @property
    def path(self) -> Path:
        """The path of the namespace."""
        return NAMESPACES / self.namespace

    def ip(self, *words: str, batch: Sequence[str] = ()) -> str:
        """Run `ip` on this host's devices, addresses and routes."""
        return ip("-n", self.namespace, *words, batch=batch)

    def argv(self, command: Iterable[object]) -> list[str]:
        """Return the command line that runs `command` in this namespace; arguments may be addresses, ports, paths."""
        return ["ip", "netns", "exec", self.namespace, *map(str, command)]

    def run(
        self,
        command: Iterable[object],
        *,
        stdin: str = "",
        env: Mapping[str, str] | None = None,
        check: bool = True,
        timeout_s: float = 30.0,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program and return its output; `env` is added to this process's environment.

        Unless `check` is off, a failure raises CalledProcessError with the program's output.
        """
        process = subprocess.run(
            self.argv(command),
            input=stdin,
            env={**os.environ, **(env or {})},
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        if check and process.returncode:
            error = subprocess.CalledProcessError(process.returncode, process.args, process.stdout, process.stderr)
            error.add_note(f"stdout: {process.stdout}\nstderr: {process.stderr}")
            raise error
        return process

    def popen(
        self, command: Iterable[object], *, env: Mapping[str, str] | None = None, **options: Any
    ) -> subprocess.Popen[str]:
        """Start a program that ends with the lab; its standard output is a pipe by default."""
        defaults = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "text": True}
        process: subprocess.Popen[str] = subprocess.Popen(
            self.argv(command),
            env={**os.environ, **(env or {})},
            start_new_session=True,  # Ctrl-C reaches the lab alone, and the lab ends the rest in order
            **{**defaults, **options},
        )
        self._started.append(process)
        return process

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function inside this namespace; sockets it creates stay there, even if returned."""

        def inside() -> T:
            enter(self.path)
            return function(*args, **kwargs)

        with ThreadPoolExecutor(1) as thread:  # the thread ends here, so that no other code runs in the namespace
            return thread.submit(inside).result()

    def add_addresses(self, addresses: Iterable[Address | str]) -> None:
        """Add addresses to send from; any address of the client is routed back to it."""
        parsed = [ip_address(address) for address in addresses]
        lines = [
            f"address add {address}/{address.max_prefixlen} dev {self.interface}"
            + (" nodad" if address.version == 6 else "")
            for address in parsed
        ]
        if lines:
            self.ip(batch=lines)

    def start_greeter(self, port: int, **options: Any) -> subprocess.Popen[str]:
        """Start the banner server on `port`; it is listening on return."""
        greeter = self.popen([sys.executable, "-m", "doorward.lab.banner_server", port], **options)
        assert greeter.stdout is not None  # noqa: S101 (the default above)
        if greeter.stdout.readline() != "ready\n":
            raise HostError("server-not-started", f"the banner server did not start on port {port}")
        return greeter

    def pids(self) -> set[int]:
        """Return the processes in this namespace, and those started here that were not waited for."""
        return pids_of([self])

    def reap(self) -> None:
        """Close the pipes of processes started here, and reap them."""
        for process in self._started:
            with process:
                pass
        self._started.clear()


def end_processes(hosts: Sequence[NamespaceHost]) -> None:
    """End all processes on these hosts, and wait for them."""
    for number, patience_s in (signal.SIGTERM, TERM_PATIENCE_S), (signal.SIGKILL, KILL_PATIENCE_S):
        if pids := pids_of(hosts):
            _signal_and_wait(pids, number, patience_s)
    for host in hosts:
        host.reap()


def pids_of(hosts: Sequence[NamespaceHost]) -> set[int]:
    """Return the processes in these namespaces, and those started there that were not waited for."""
    pids = {child.pid for host in hosts for child in host._started if child.poll() is None}
    namespaces = {_file_number(host.path) for host in hosts if host.path.exists()}
    for process in Path("/proc").glob("[0-9]*") if namespaces else ():  # once for all hosts: it takes milliseconds
        with suppress(OSError):  # it has ended meanwhile, or is not accessible
            if _file_number(process / "ns/net") in namespaces:
                pids.add(int(process.name))
    return pids - {os.getpid()}


def _file_number(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _signal_and_wait(pids: Iterable[int], number: signal.Signals, patience_s: float) -> None:
    handles: set[int] = set()  # a handle, unlike a PID, cannot be reused
    for pid in pids:
        with suppress(ProcessLookupError):
            handles.add(os.pidfd_open(pid))
    for handle in handles:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, number)
    remaining, deadline_s = set(handles), time.monotonic() + patience_s
    while remaining and (remaining_s := deadline_s - time.monotonic()) > 0:
        remaining -= set(select.select(remaining, [], [], remaining_s)[0])
    for handle in handles:
        os.close(handle)
