"""The process that reads strangers' bytes: what it sends, what it can still do, and what becomes of a bad one."""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import select
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorward.daemon.nflog_reader import WHATS, NflogReader, give_up_everything, pack_events, parse_events
from doorward.errors import MalformedError
from doorward.kernel import privileges, seccomp
from doorward.kernel.bpf import Instruction
from doorward.kernel.nflog import LogSocket, NflogEvent, event_log
from doorward.kernel.privileges import Identity
from doorward.lab.namespace import ip
from doorward.nftables.libnftables import NftFirewall
from tests.support.processes import NOBODY, own_namespace, without_root

GROUP = 3329
PATIENCE_S = 15.0
SOURCES = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6))
EVENTS = st.builds(
    NflogEvent,
    st.integers(0, 0xFFFFFFFF).map(lambda number: f"{number:08x}"),
    st.sampled_from(WHATS),
    st.integers(0, 0xFFFFFFFF),
    SOURCES,
    st.integers(0, (1 << 63) - 1),
    st.integers(0, 0xFFFF),
)


@given(st.lists(EVENTS, min_size=1, max_size=20))
def test_what_is_sent_is_what_arrives(events: list[NflogEvent]) -> None:
    assert parse_events(pack_events(events)) == events


@given(st.binary(max_size=200))
def test_any_bytes_are_events_or_malformed(raw: bytes) -> None:
    try:
        events = parse_events(raw)
    except MalformedError:
        return
    assert pack_events(events) == raw


GOOD = pack_events([NflogEvent("0123abcd", "knock", 7, ip_address("192.0.2.7"))])


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"O",
        GOOD[:-1],
        GOOD + b"\0",
        GOOD[:8] + b"\6" + GOOD[9:],
        GOOD[:9] + b"\5" + GOOD[10:],
        GOOD[:25] + b"\1" + GOOD[26:],
    ],
)
def test_malformed_events_are_rejected(raw: bytes) -> None:
    with pytest.raises(MalformedError):
        parse_events(raw)


RULES = f"""
table inet test {{
    chain input {{
        type filter hook input priority 0
        udp dport 7000 meta mark set 513 log prefix "doorward 0123abcd knock " group {GROUP} queue-threshold 1
        udp dport 7001 log prefix "doorward 0123abcd step " group {GROUP + 1} queue-threshold 1
    }}
}}
"""
KNOCK = NflogEvent("0123abcd", "knock", 513, ip_address("127.0.0.1"))
STEP = NflogEvent("0123abcd", "step", 0, ip_address("127.0.0.1"))


@contextmanager
def reading(groups: int = 1) -> Iterator[NflogReader]:
    with own_namespace():
        ip("link", "set", "lo", "up")
        NftFirewall().run(RULES)
        reader = NflogReader([event_log(GROUP + number) for number in range(groups)])
        try:
            yield reader
        finally:
            reader.close()


def knock(port: int = 7000) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"knock", ("127.0.0.1", port))


def awaited(reader: NflogReader, count: int) -> list[NflogEvent | None]:
    """Read so many events, None for a loss."""
    found: list[NflogEvent | None] = []
    while len(found) < count:
        assert select.select([reader], [], [], PATIENCE_S)[0]
        events = reader.read()
        found += [None] if events is None else [event._replace(at_us=0) for event in events]
    return found


@pytest.mark.netns
def test_events_are_forwarded_those_of_the_last_log_first() -> None:
    with reading(2) as reader:
        os.kill(reader._worker.pid, signal.SIGSTOP)
        knock(7000)
        knock(7001)
        os.kill(reader._worker.pid, signal.SIGCONT)
        assert awaited(reader, 2) == [STEP, KNOCK]
        assert reader.read() == []


@pytest.mark.netns
def test_what_comes_while_no_reader_runs_is_read_by_the_next() -> None:
    with reading() as reader:
        for number in (signal.SIGKILL, signal.SIGSEGV):
            before = reader._worker.pid
            os.kill(reader._worker.pid, number)
            knock()
            assert awaited(reader, 2) == [None, KNOCK]
            assert reader._worker.pid != before
            assert f"by signal {int(number)}" in reader.loss


@pytest.mark.netns
def test_a_reader_that_sends_something_else_is_ended() -> None:
    with reading() as reader:
        before = reader._worker.pid
        reader._waiter.unregister(reader._worker)
        reader._worker.socket.close()
        reader._worker.socket, taken_over = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with taken_over:
            reader._waiter.register(reader._worker, select.EPOLLIN)
            taken_over.send(b'{"run": "/bin/sh"}')
            assert awaited(reader, 1) == [None]
            assert "sent an invalid event" in reader.loss
            with pytest.raises(ProcessLookupError):
                os.kill(before, 0)
            knock()
            assert awaited(reader, 1) == [KNOCK]


def kernel_call(name: str, *arguments: object) -> Callable[[], None]:
    """Call the C library's function; OSError where it fails."""
    function = getattr(ctypes.CDLL(None, use_errno=True), name)

    def call() -> None:
        if function(*arguments) == -1:
            raise OSError(ctypes.get_errno(), name)

    return call


def forbidden(folder: Path) -> dict[str, Callable[[], object]]:
    """Return what somebody who took over the reader would try; where it would change this machine, with wrong words.

    Outside, wrong words give another error than EPERM.
    """
    file = folder / "file"
    return {
        "write a file": lambda: os.open(folder / "new", os.O_WRONLY | os.O_CREAT),
        "write to a file": lambda: os.open(file, os.O_WRONLY),
        "read a file": lambda: os.open(file, os.O_RDONLY),
        "remove a file": file.unlink,
        "rename a file": lambda: file.rename(folder / "other"),
        "link a file": lambda: (folder / "link").symlink_to(file),
        "make a folder": (folder / "made").mkdir,
        "change a mode": lambda: file.chmod(0o700),
        "change an owner": lambda: os.chown(file, 0, 0),
        "start a program": lambda: os.execv("/bin/sh", ["sh", "-c", "true"]),  # noqa: S606
        "fork": lambda: os._exit(0) if os.fork() == 0 else None,
        "open a socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
        "make a pair": socket.socketpair,
        "become root": lambda: os.setuid(0),
        "end the daemon": lambda: os.kill(os.getppid(), 0),
        "trace the daemon": kernel_call("ptrace", 16, -1, None, None),
        "run bytes": kernel_call("mmap", None, ctypes.c_size_t(4096), 7, 0x22, -1, ctypes.c_long(0)),
        "make memory executable": kernel_call("mprotect", None, ctypes.c_size_t(0), 5),
        "map a descriptor": lambda: mmap.mmap(0, 4096, mmap.MAP_PRIVATE, mmap.PROT_READ),
        "mount": kernel_call("mount", b"none", b"/", b"no such file system", 0, None),
        "leave the namespace": kernel_call("unshare", 0x40000000),
        "take off the filter": kernel_call("prctl", 22, 0, 0, 0, 0),
        "send elsewhere": kernel_call("send", 0, b"x", ctypes.c_size_t(1), 0),
        "move a descriptor": lambda: os.dup2(0, 9),
    }


Enter = Callable[[LogSocket[NflogEvent], socket.socket], None]


def results(attempts: dict[str, Callable[[], object]], enter: Enter) -> dict[str, str]:
    """Enter some sandbox in a child, try everything there, and tell what came of it."""
    with own_namespace():
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with here, there, closing(event_log(GROUP)) as log:
            pid = os.fork()
            if pid == 0:
                enter(log, there)
                for name, attempt in attempts.items():
                    try:
                        attempt()
                        said = "done"
                    except OSError as error:
                        said = os.strerror(error.errno or 0)
                    there.send(json.dumps([name, said]).encode())
                os._exit(0)
            there.close()
            here.settimeout(PATIENCE_S)
            found: dict[str, str] = {}
            while raw := here.recv(1000):
                found.update([json.loads(raw)])
            os.waitpid(pid, 0)
        return found


@pytest.mark.netns
@pytest.mark.parametrize("user", [None, NOBODY], ids=["root", "another user"])
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_compromised_reader_can_do_nothing(tmp_path: Path, user: int | None) -> None:
    tmp_path.chmod(0o777)
    (tmp_path / "file").write_text("as it was")
    (tmp_path / "file").chmod(0o666)
    attempts = forbidden(tmp_path)
    identity = None if user is None else Identity("nobody", user, user, (user,))

    def enter(log: LogSocket[NflogEvent], daemon: socket.socket) -> None:
        give_up_everything(identity, [log], daemon)

    assert results(attempts, enter) == dict.fromkeys(attempts, "Operation not permitted")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "as it was"
    assert results({"live on": lambda: (bytearray(1 << 24), time.monotonic(), os.getpid())}, enter)["live on"] == "done"


@pytest.mark.netns
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_without_the_sandbox_the_same_is_done(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ends = {"start a program", "become root", "rename a file", "remove a file"}  # what others need is gone after it
    attempts = {name: attempt for name, attempt in forbidden(tmp_path).items() if name not in ends}
    assert "Operation not permitted" not in results(attempts, lambda *_: None).values()


def verdict(program: list[Instruction], audit: int, call: int, *arguments: int) -> int:
    """Run a filter as the kernel does, over struct seccomp_data."""
    data = struct.pack("<IIQ6Q", call, audit, 0, *(arguments + (0,) * 6)[:6])
    a = at = 0
    while True:
        code, k, if_true, if_false = program[at]
        at += 1
        if code == 0x06:
            return k
        if code == 0x20:
            a = struct.unpack_from("<I", data, k)[0]
        else:
            at += if_true if {0x15: a == k, 0x35: a >= k, 0x45: bool(a & k)}[code] else if_false


ALLOW, REFUSE, KILL = 0x7FFF0000, 0x00050001, 0x80000000
X86_64, AARCH64 = 0xC000003E, 0xC00000B7


@pytest.mark.parametrize(
    ("machine", "audit", "call", "arguments", "expected"),
    [
        ("x86_64", X86_64, 45, (3,), ALLOW),  # recvfrom
        ("x86_64", X86_64, 45, (4,), REFUSE),
        ("x86_64", X86_64, 44, (4,), ALLOW),  # sendto
        ("x86_64", X86_64, 44, (3,), REFUSE),
        ("x86_64", X86_64, 9, (0, 4096, 3, 0x22), ALLOW),  # mmap
        ("x86_64", X86_64, 9, (0, 4096, 7, 0x22), REFUSE),
        ("x86_64", X86_64, 9, (0, 4096, 1, 0x02), REFUSE),
        ("x86_64", X86_64, 2, (), REFUSE),  # open
        ("x86_64", X86_64, 59, (), REFUSE),  # execve
        ("x86_64", X86_64, 56, (), REFUSE),  # clone
        ("x86_64", X86_64, 0x40000000 + 45, (3,), KILL),  # x32
        ("x86_64", 0x40000003, 45, (3,), KILL),  # i386
        ("aarch64", AARCH64, 207, (3,), ALLOW),
        ("aarch64", AARCH64, 206, (4,), ALLOW),
        ("aarch64", AARCH64, 222, (0, 4096, 3, 0x22), ALLOW),
        ("aarch64", AARCH64, 56, (), REFUSE),  # openat
        ("aarch64", AARCH64, 221, (), REFUSE),  # execve
        ("aarch64", AARCH64, 220, (), REFUSE),  # clone
        ("aarch64", X86_64, 207, (3,), KILL),
    ],
)
def test_the_filter_on_both_machines(
    machine: str, audit: int, call: int, arguments: tuple[int, ...], expected: int
) -> None:
    assert verdict(seccomp.reader_filter(machine, [3], [4]), audit, call, *arguments) == expected


def test_architecture_without_a_filter_is_reported() -> None:
    assert seccomp.is_supported("x86_64")
    assert seccomp.is_supported("aarch64")
    assert not seccomp.is_supported("riscv64")


def test_without_root_there_is_no_user_to_switch_to() -> None:
    assert without_root(privileges.service_identity) is None
