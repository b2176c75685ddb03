"""The control socket: who may ask, what it answers, and what no client can do to it."""

from __future__ import annotations

import grp
import json
import os
import pwd
import select
import socket
import stat
import struct
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from doorward.daemon import control_socket
from doorward.daemon.control_client import ask
from doorward.daemon.control_socket import (
    MAX_CLIENTS,
    MAX_READERS,
    MAX_REQUEST_BYTES,
    ControlServer,
    DeferredReply,
    parse_request,
)
from doorward.errors import DoorwardError, HostError, MalformedError, NegativeResult, UsageError
from doorward.kernel.event_loop import EventLoop
from tests.support.errors import raises
from tests.support.processes import NOBODY, as_nobody, needs_root

PATIENCE_MS = 15_000

# Requests


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
requests = st.dictionaries(st.sampled_from(["command", "door", "x"]), json_values).map(lambda v: json.dumps(v).encode())


@given(st.binary() | requests | json_values.map(lambda value: json.dumps(value).encode()))
@example(b"[" * 60_000)
@example(b'{"command": "' + b"x" * 60_000)
@example(b'{"command": "open", "n": ' + b"9" * 10_000 + b"}")
@example('{"command": "open"}'.encode("utf-16"))
@example(b'{"command": "\xff"}')
def test_any_bytes_are_a_request_or_malformed(line: bytes) -> None:
    try:
        request = parse_request(line)
    except MalformedError:
        return
    assert isinstance(request["command"], str)


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"", "invalid-request"),
        (b"open ssh", "invalid-request"),
        (b'{"command": "open"', "invalid-request"),
        (b"[]", "invalid-request"),
        (b'"status"', "invalid-request"),
        (b"{}", "invalid-request"),
        (b'{"command": 7}', "invalid-request"),
        (b'{"command": null}', "invalid-request"),
    ],
)
def test_malformed_requests_are_rejected(line: bytes, code: str) -> None:
    with raises(MalformedError, code):
        parse_request(line)


# The server


class Served:
    """A control server whose loop runs in a thread."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "control.sock"
        self.asked: list[str] = []
        self._loop = EventLoop()
        self._stop_here, self._stop_there = socket.socketpair()
        self.server = ControlServer(self.path, self._loop, self._answer)
        self._loop.on_readable(self._stop_here.fileno(), self._loop.stop)
        self._thread = threading.Thread(target=self._loop.run)
        self._thread.start()

    def _answer(self, request: Mapping[str, Any]) -> dict[str, Any] | DeferredReply:
        command = request["command"]
        self.asked.append(command)
        if command == "no":
            raise NegativeResult("not-open", "it is not open")
        if command == "usage":
            raise UsageError("unknown-door", "there is no such door")
        if command == "host":
            raise HostError("kernel-too-old", "the kernel lacks something")
        if command == "read":
            return {"said": os.pread(request["descriptor"], 100, 0).decode()}
        if command.startswith("later"):
            later, outcome = DeferredReply(), self._refuse if command == "later no" else lambda: {"said": "at last"}
            self._loop.at(self._loop.now_s() + 0.1, lambda: later.give_outcome(outcome))
            return later
        if command == "whose":
            return {"said": [request["is_owner"], request["is_reader"]]}
        if command == "at once":
            later = DeferredReply()
            later.give_outcome(lambda: {"said": "at once"})
            return later
        return {"said": "x" * 4_000_000 if command == "much" else request["descriptor"] or command}

    def _refuse(self) -> dict[str, Any]:
        raise NegativeResult("not-open", "it was not to be")

    def connect(self) -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(5)
        client.connect(str(self.path))
        return client

    def end(self) -> None:
        self._stop_there.send(b"!")
        self._thread.join()
        self.server.close()
        self._loop.close()
        self._stop_here.close()
        self._stop_there.close()


@pytest.fixture
def served() -> Iterator[Served]:
    # Short, for a socket's path has 107 bytes; and open to nobody, unlike pytest's own folder.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        served = Served(Path(folder))
        yield served
        served.end()


def line_of(client: socket.socket) -> Any:
    with client.makefile("rb") as replies:
        return json.loads(replies.readline())


def is_left(client: socket.socket) -> bool:
    """Wait until the server closes the connection; what it said before is read away."""
    with suppress(ConnectionResetError):
        while client.recv(1 << 20):
            pass
    return True


def test_a_request_is_answered(served: Served) -> None:
    assert ask(served.path, {"command": "status"}) == {"said": "status"}
    assert len(ask(served.path, {"command": "much"})["said"]) == 4_000_000
    assert served.asked == ["status", "much"]


@pytest.mark.parametrize(
    ("command", "error", "code"),
    [
        ("no", NegativeResult, "not-open"),
        ("usage", UsageError, "unknown-door"),
        ("host", UsageError, "kernel-too-old"),
    ],
)
def test_a_refusal_comes_as_it_is(served: Served, command: str, error: type[DoorwardError], code: str) -> None:
    with raises(error, code):
        ask(served.path, {"command": command})


def test_one_connection_may_ask_several_times(served: Served) -> None:
    with served.connect() as client:
        for part, answers in [
            (b'{"command": "a"}\n', ["a"]),
            (b'{"command": "b"}\n{"command": "c"}\n{"comm', ["b", "c"]),
            (b'and": "d"}\n', ["d"]),
        ]:
            client.sendall(part)
            with client.makefile("rb") as replies:
                assert [json.loads(replies.readline())["said"] for _ in answers] == answers


def test_garbage_is_rejected_and_affects_no_other_client(served: Served) -> None:
    with served.connect() as client:
        for garbage in b"\n", b"\0\xff\n", b"GET / HTTP/1.1\n", b"[" * 60_000 + b"\n":
            client.sendall(garbage)
            answer = line_of(client)
            assert answer["exit_status"] == 2
            assert "JSON" in answer["error"]
        client.sendall(b'{"command": "status"}\n')
        assert line_of(client) == {"said": "status"}


def test_a_line_without_end_is_cut_off(served: Served) -> None:
    with served.connect() as client, suppress(BrokenPipeError, ConnectionResetError):
        client.sendall(b"x" * (MAX_REQUEST_BYTES * 4))
        assert is_left(client)
    assert ask(served.path, {"command": "status"}) == {"said": "status"}
    assert served.asked == ["status"]


def test_a_client_that_leaves_in_the_middle_is_forgotten(served: Served) -> None:
    for said in b"", b'{"command": "st', b'{"command": "much"}\n':
        with served.connect() as client:
            client.sendall(said)
    assert ask(served.path, {"command": "status"}) == {"said": "status"}


def test_a_client_that_is_reset_is_forgotten(served: Served) -> None:
    with served.connect() as client:
        client.sendall(b'{"command": "a"}\n')
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert ask(served.path, {"command": "status"}) == {"said": "status"}


def test_slow_client_is_answered_and_blocks_no_other(served: Served) -> None:
    with served.connect() as slow:
        for byte in b'{"command": "slow"}':
            slow.sendall(bytes([byte]))
            assert ask(served.path, {"command": "quick"}) == {"said": "quick"}
        slow.sendall(b"\n")
        assert line_of(slow) == {"said": "slow"}


def test_a_silent_client_is_left(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_socket, "_PATIENCE_S", 0.05)
    with served.connect() as silent:
        assert is_left(silent)


def test_a_client_that_does_not_read_never_blocks_the_daemon(served: Served) -> None:
    with served.connect() as client, ExitStack() as stack:
        began_s = time.monotonic()
        for _ in range(20):
            stack.enter_context(served.connect()).sendall(b'{"command": "much"}\n')
        client.sendall(b'{"command": "much"}\n' * 20)
        assert ask(served.path, {"command": "status"}) == {"said": "status"}
        assert time.monotonic() - began_s < 20  # not a second for each of them
        assert is_left(client)  # it asked again before it had read its answer
    assert served.asked == ["much"] * 21 + ["status"]


def test_a_client_that_sends_nothing_more_gets_its_whole_answer(served: Served) -> None:
    with served.connect() as client:
        client.sendall(b'{"command": "much"}\n')
        client.shutdown(socket.SHUT_WR)
        assert ask(served.path, {"command": "status"}) == {"said": "status"}
        assert len(line_of(client)["said"]) == 4_000_000
        assert is_left(client)


def test_a_client_that_does_not_read_is_left(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_socket, "_PATIENCE_S", 0.2)
    with served.connect() as client:
        client.sendall(b'{"command": "much"}\n')
        client.shutdown(socket.SHUT_WR)
        leaves = select.poll()
        leaves.register(client, 0)  # of the end alone
        assert leaves.poll(PATIENCE_MS)
        with pytest.raises(ValueError, match="Unterminated"):  # it got what the buffers hold
            line_of(client)
        assert is_left(client)


def test_beyond_the_bound_clients_are_turned_away_until_one_leaves(served: Served) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(served.connect()) for _ in range(MAX_CLIENTS)]
        for client in clients:
            client.sendall(b'{"command": "status"}\n')
            assert line_of(client) == {"said": "status"}  # it is in
        for _ in range(3):
            with served.connect() as late:
                assert is_left(late)
        clients[0].shutdown(socket.SHUT_WR)
        assert is_left(clients[0])
        assert ask(served.path, {"command": "status"}) == {"said": "status"}
    assert ask(served.path, {"command": "status"}) == {"said": "status"}


def test_closing_ends_the_clients_and_removes_the_socket(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        served = Served(Path(folder))
        with served.connect() as client:
            client.sendall(b'{"command": "status"}\n')
            assert line_of(client) == {"said": "status"}
            served.end()
            assert not served.path.exists()
            assert is_left(client)
        with raises(NegativeResult, "no-daemon"):
            ask(served.path, {"command": "status"})


# Who may ask


@pytest.fixture
def loop() -> Iterator[EventLoop]:
    loop = EventLoop()
    yield loop
    loop.close()


def mode_of(path: Path) -> tuple[int, int]:
    status = path.stat()
    return stat.S_IMODE(status.st_mode), status.st_gid


@needs_root
def test_only_root_may_ask(served: Served) -> None:
    assert mode_of(served.path) == (0o600, 0)
    with raises(UsageError, "turned-away"):
        as_nobody(lambda: ask(served.path, {"command": "status"}))
    assert served.asked == []


@needs_root
def test_nobody_is_asked_for_his_name_even_where_the_socket_is_open(served: Served) -> None:
    served.path.chmod(0o666)
    for _ in range(20):  # he may find the door shut before, while or after he asks
        with raises(UsageError, "turned-away"):
            as_nobody(lambda: ask(served.path, {"command": "status"}))
    assert served.asked == []


@needs_root
def test_members_of_one_group_may_ask_too(served: Served) -> None:
    ours, other = (entry for entry in grp.getgrall()[:3] if entry.gr_gid != 0)
    served.server.admit_group(ours.gr_name)
    assert mode_of(served.path) == (0o660, ours.gr_gid)
    assert as_nobody(lambda: ask(served.path, {"command": "member"}), [other.gr_gid, ours.gr_gid])
    served.path.chmod(0o666)
    with pytest.raises((UsageError, NegativeResult)):
        as_nobody(lambda: ask(served.path, {"command": "other"}), [other.gr_gid])

    served.server.admit_group(None)
    assert mode_of(served.path) == (0o600, 0)
    served.path.chmod(0o666)
    with pytest.raises((UsageError, NegativeResult)):
        as_nobody(lambda: ask(served.path, {"command": "member no more"}), [ours.gr_gid])
    assert served.asked == ["member"]


@needs_root
def test_members_can_pass_through_the_folder_that_the_daemon_made(loop: EventLoop) -> None:
    ours = next(entry for entry in grp.getgrall() if entry.gr_gid != 0)
    with tempfile.TemporaryDirectory() as outer:
        Path(outer).chmod(0o755)
        path = Path(outer) / "run" / "doorward" / "control.sock"
        before = os.umask(0o077)  # as `doorward run` sets it
        try:
            server = ControlServer(path, loop, dict)
        finally:
            os.umask(before)
        try:
            server.admit_group(ours.gr_name)
            assert as_nobody(path.is_socket, [ours.gr_gid])
        finally:
            server.close()


@needs_root
def test_a_group_may_be_the_clients_first(served: Served) -> None:
    served.server.admit_group(grp.getgrgid(65534).gr_name)
    assert as_nobody(lambda: ask(served.path, {"command": "status"})) == {"said": "status"}


def test_a_group_that_does_not_exist(served: Served) -> None:
    with raises(HostError, "unknown-group"):
        served.server.admit_group("no-such-group")


# Where it listens


def test_a_socket_that_a_dead_daemon_left_is_replaced(tmp_path: Path, loop: EventLoop) -> None:
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()
    assert path.is_socket()
    ControlServer(path, loop, dict).close()
    assert not path.exists()


def test_a_living_daemon_is_not_pushed_aside(tmp_path: Path, loop: EventLoop) -> None:
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as living:
        living.bind(str(path))
        living.listen()
        with pytest.raises(HostError, match=f"another doorward, process {os.getpid()}, answers at .*; stop it first"):
            ControlServer(path, loop, dict)
        assert path.is_socket()


def test_a_place_where_no_socket_can_be(tmp_path: Path, loop: EventLoop) -> None:
    (tmp_path / "file").touch()
    for path in tmp_path / "file" / "control.sock", tmp_path / ("x" * 120) / "control.sock":
        with raises(HostError, "socket-unavailable") as caught:
            ControlServer(path, loop, dict)
        assert "None" not in str(caught.value)  # a reason, in words


def test_no_client_is_admitted_while_the_socket_is_made(tmp_path: Path, loop: EventLoop) -> None:
    before = os.umask(0)
    try:
        server = ControlServer(tmp_path / "control.sock", loop, dict)
        assert mode_of(tmp_path / "control.sock")[0] == 0o600
        assert os.umask(0) == 0  # given back
        server.close()
    finally:
        os.umask(before)


# Files that come with a request, and answers that come later


def test_a_file_comes_with_a_request_and_is_closed_after_it(served: Served) -> None:
    read, write = os.pipe()
    with tempfile.TemporaryFile() as file:
        file.write(b"its text")
        file.flush()
        assert ask(served.path, {"command": "read"}, descriptor=file.fileno()) == {"said": "its text"}
    ask(served.path, {"command": "any"}, descriptor=write)
    os.close(write)
    assert os.read(read, 1) == b""  # nobody holds the other end any more
    os.close(read)


def test_no_number_in_a_request_is_taken_for_a_file(served: Served) -> None:
    assert ask(served.path, {"command": "any", "descriptor": 1}) == {"said": "any"}


@needs_root
def test_members_of_the_group_are_not_taken_for_the_owner(served: Served) -> None:
    served.server.admit_group(grp.getgrgid(os.getegid()).gr_name)
    served.path.chmod(0o666)
    forged = {"command": "whose", "is_owner": True}
    assert ask(served.path, forged) == {"said": [True, False]}
    assert as_nobody(lambda: ask(served.path, forged), [os.getegid()]) == {"said": [False, False]}


@pytest.fixture
def readers(monkeypatch: pytest.MonkeyPatch) -> int:
    """Let the user nobody be the one that reads numbers; gives its group."""
    nobody = pwd.getpwuid(NOBODY)
    monkeypatch.setattr(control_socket, "METRICS_USER", nobody.pw_name)
    return nobody.pw_gid


@needs_root
def test_one_user_may_read_the_numbers(served: Served, readers: int) -> None:
    ours = next(entry for entry in grp.getgrall() if entry.gr_gid not in (0, readers))
    forged = {"command": "whose", "is_owner": True, "is_reader": False}
    served.server.admit_group(None)
    assert mode_of(served.path) == (0o660, readers)
    assert as_nobody(lambda: ask(served.path, forged)) == {"said": [False, True]}
    served.server.admit_group(ours.gr_name)
    assert mode_of(served.path) == (0o666, 0)  # a file has one group; who asks is looked at
    assert as_nobody(lambda: ask(served.path, forged)) == {"said": [False, True]}
    assert as_nobody(lambda: ask(served.path, forged), [ours.gr_gid]) == {"said": [False, False]}


@needs_root
def test_metrics_server_leaves_room_for_root(served: Served, readers: int) -> None:
    served.server.admit_group(None)

    def hold_all() -> int:
        with ExitStack() as stack:
            clients = [stack.enter_context(served.connect()) for _ in range(MAX_CLIENTS)]
            for client in clients:
                with suppress(OSError):
                    client.sendall(b'{"command": "stats"}\n')
            answered = 0
            for client in clients:
                with suppress(OSError, ValueError):
                    answered += line_of(client) == {"said": "stats"}
            return answered

    assert as_nobody(hold_all) == MAX_READERS
    assert ask(served.path, {"command": "status"}) == {"said": "status"}


@needs_root
def test_metrics_server_never_blocks_the_daemon(served: Served, readers: int) -> None:
    served.server.admit_group(None)

    def read_nothing() -> float:
        with ExitStack() as stack:
            began_s = time.monotonic()
            for _ in range(MAX_READERS - 1):
                client = stack.enter_context(served.connect())
                client.sendall(b'{"command": "much"}\n' * 4)
            ask(served.path, {"command": "whose"})
            return time.monotonic() - began_s

    def ask_much_at_once() -> bool:
        with served.connect() as client:
            client.sendall(b'{"command": "stats"}\n' * 1000)
            return is_left(client)

    assert as_nobody(read_nothing) < MAX_READERS - 1  # less than a second for each call, however busy the host is
    assert as_nobody(ask_much_at_once)
    assert as_nobody(lambda: len(ask(served.path, {"command": "much"})["said"])) == 4_000_000
    assert served.asked.count("stats") == 0


def test_files_without_a_request_are_not_gathered(served: Served) -> None:
    read, write = os.pipe()
    with served.connect() as client:
        with suppress(OSError):
            for _ in range(10):
                socket.send_fds(client, [b"{"], [write])
        assert is_left(client)
    os.close(write)
    assert os.read(read, 1) == b""
    os.close(read)


def test_deferred_reply_blocks_no_other_client(served: Served) -> None:
    with served.connect() as client:
        client.sendall(b'{"command": "later"}\n')
        assert ask(served.path, {"command": "status"}) == {"said": "status"}
        assert line_of(client) == {"said": "at last"}
    with pytest.raises(NegativeResult, match="it was not to be"):
        ask(served.path, {"command": "later no"})
    assert ask(served.path, {"command": "at once"}) == {"said": "at once"}
    with served.connect() as client:
        client.sendall(b'{"command": "later"}\n')  # and leaves
    assert ask(served.path, {"command": "later"}) == {"said": "at last"}
