"""`doorward proxy` as ssh runs it: with pipes as standard streams, and a server behind a door."""

from __future__ import annotations

import hashlib
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from random import Random

import pytest

from doorward.cli.main import main
from doorward.signed.envelope import Decryptor
from doorward.signed.message import parse_plaintext, target_hash
from doorward.signed.server_key import X25519, generate_private_text, parse_private_key
from tests.support.ssh_keygen import key

SERVER = parse_private_key(generate_private_text(X25519))
KEY = str(SERVER.public)
PATIENCE_S = 60.0
BULK = Random(1).randbytes(1 << 20)
pytestmark = pytest.mark.usefixtures("empty_ssh_directory")


class Site:
    """A service and a port for knocks, at one or both loopback addresses."""

    def __init__(self, held: ExitStack, *versions: int) -> None:
        places = {4: (socket.AF_INET, "127.0.0.1"), 6: (socket.AF_INET6, "::1")}
        self.services: dict[int, socket.socket] = {}
        self.knocks: dict[int, socket.socket] = {}
        for version in versions:
            family, address = places[version]
            service = held.enter_context(socket.socket(family, socket.SOCK_STREAM))
            service.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            service.bind((address, self.port if self.services else 0))
            service.listen()
            self.services[version] = service
            knocks = held.enter_context(socket.socket(family, socket.SOCK_DGRAM))
            knocks.bind((address, self.knock_port if self.knocks else 0))
            knocks.settimeout(PATIENCE_S)
            self.knocks[version] = knocks

    @property
    def port(self) -> int:
        number: int = next(iter(self.services.values())).getsockname()[1]
        return number

    @property
    def knock_port(self) -> int:
        number: int = next(iter(self.knocks.values())).getsockname()[1]
        return number

    @property
    def signed(self) -> list[str]:
        return ["--server-key", KEY, "--signed-port", str(self.knock_port), "--identity", str(key("ed25519"))]


@pytest.fixture
def site() -> Iterator[Site]:
    with ExitStack() as held:
        yield Site(held, 4)


@contextmanager
def proxy(*words: object) -> Iterator[subprocess.Popen[bytes]]:
    """Run it and wait for its end, unless the test fails."""
    command = [sys.executable, "-m", "doorward", "proxy", *map(str, words)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as running:
        try:
            yield running
        except BaseException:
            running.kill()
            raise


def door_in(packet: bytes) -> str:
    target = parse_plaintext(Decryptor(SERVER).open(packet)).request.target
    return {target_hash("", door): door for door in ("ssh", "db", "web")}[target]


Handler = Callable[[socket.socket], object]


@contextmanager
def serving(service: socket.socket, handle: Handler) -> Iterator[None]:
    """Handle every connection in its own thread: under load an abandoned attempt may be one too."""
    threads: list[threading.Thread] = []

    def one(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.settimeout(PATIENCE_S)
            handle(connection)

    def accept() -> None:
        with suppress(OSError):
            while True:
                thread = threading.Thread(target=one, args=(service.accept()[0],))
                thread.start()
                threads.append(thread)

    acceptor = threading.Thread(target=accept)
    acceptor.start()
    try:
        yield
    finally:
        service.shutdown(socket.SHUT_RDWR)
        acceptor.join(PATIENCE_S)  # the list is complete then
        for thread in threads:
            thread.join(PATIENCE_S)


class Conversation:
    """Sends an answer and closes its side, and records everything that clients send."""

    def __init__(self, answer: bytes) -> None:
        self.answer, self.heard = answer, b""

    def __call__(self, theirs: socket.socket) -> None:
        def speak() -> None:
            with suppress(OSError):
                theirs.sendall(self.answer)
                theirs.shutdown(socket.SHUT_WR)

        speaker = threading.Thread(target=speak)
        speaker.start()
        parts = []
        while part := theirs.recv(1 << 16):
            parts.append(part)
        self.heard += b"".join(parts)
        speaker.join(PATIENCE_S)


def test_a_signed_knock_and_a_megabyte_each_way(site: Site) -> None:
    server = Conversation(BULK[::-1])
    with serving(site.services[4], server), proxy("127.0.0.1", site.port, "ssh", *site.signed) as running:
        out, err = running.communicate(BULK, PATIENCE_S)
    assert (running.returncode, err) == (0, b"")
    assert hashlib.sha256(out).digest() == hashlib.sha256(BULK[::-1]).digest()
    assert hashlib.sha256(server.heard).digest() == hashlib.sha256(BULK).digest()
    assert door_in(site.knocks[4].recv(2000)) == "ssh"


def test_fdpass_hands_over_the_connection_and_ends(site: Site) -> None:
    ours, theirs = socket.socketpair()
    words = [sys.executable, "-m", "doorward", "proxy", "127.0.0.1", site.port, "ssh", *site.signed, "--fdpass"]
    with ours, serving(site.services[4], lambda connection: connection.sendall(b"SSH-2.0")):
        done = subprocess.run([*map(str, words)], stdin=theirs.fileno(), stdout=theirs.fileno(), stderr=subprocess.PIPE)
        theirs.close()
        assert (done.returncode, done.stderr) == (0, b"")
        _, (passed,), _, _ = socket.recv_fds(ours, 1, 1)
        with socket.socket(fileno=passed) as connection:
            assert connection.getpeername() == site.services[4].getsockname()
            assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert connection.recv(7, socket.MSG_WAITALL) == b"SSH-2.0"


def test_fdpass_needs_a_socket_to_pass_to(site: Site) -> None:
    words = ("127.0.0.1", site.port, "ssh", *site.signed, "--fdpass")
    with serving(site.services[4], lambda _: None), proxy(*words) as running:
        out, err = running.communicate(timeout=PATIENCE_S)
    assert (running.returncode, out) == (2, b"")
    assert b"--fdpass" in err
    assert b"ProxyUseFdpass yes" in err


def test_sequence_also_works(site: Site) -> None:
    server = Conversation(b"hello")
    with (
        serving(site.services[4], server),
        proxy("127.0.0.1", site.port, f"{site.knock_port}/udp", "--delay", "1ms") as running,
    ):
        assert running.communicate(b"you too", PATIENCE_S) == (b"hello", b"")
    assert (running.returncode, server.heard) == (0, b"you too")
    assert site.knocks[4].recv(9) == b"\0"


def test_ends_when_both_sides_close(site: Site) -> None:
    with (
        serving(site.services[4], Conversation(b"goodbye")),
        proxy("127.0.0.1", site.port, "ssh", *site.signed) as running,
    ):
        assert running.stdout is not None
        assert running.stdin is not None
        assert running.stdout.read() == b"goodbye"  # its end too, while the other way is open
        running.stdin.close()
        assert running.wait(PATIENCE_S) == 0


def test_closed_output_ends_quietly(site: Site) -> None:
    ended = threading.Event()

    def speak(theirs: socket.socket) -> None:
        theirs.sendall(b"for nobody")
        ended.wait(PATIENCE_S)

    with serving(site.services[4], speak), proxy("127.0.0.1", site.port, "ssh", *site.signed) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.close()
        assert running.wait(PATIENCE_S) == 0
        assert running.stderr.read() == b""
        ended.set()


def test_reset_returns_1(site: Site) -> None:
    def reset(theirs: socket.socket) -> None:
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    with serving(site.services[4], reset), proxy("127.0.0.1", site.port, "ssh", *site.signed) as running:
        assert running.wait(PATIENCE_S) == 1
        assert running.stderr is not None
        said = running.stderr.read()
    assert said == b"doorward: 127.0.0.1: the connection broke: Connection reset by peer; connect again\n"


def test_knocks_at_the_connected_address() -> None:
    with ExitStack() as held:
        site = Site(held, 6)
        held.enter_context(serving(site.services[6], Conversation(b"six")))
        running = held.enter_context(proxy("::1", site.port, "ssh", *site.signed))
        assert running.communicate(b"", PATIENCE_S) == (b"six", b"")
        assert door_in(site.knocks[6].recv(2000)) == "ssh"


def test_knocks_until_door_is_open(site: Site) -> None:
    with ExitStack() as held:
        late = held.enter_context(socket.socket())
        late.bind(("127.0.0.1", 0))
        running = held.enter_context(proxy("127.0.0.1", late.getsockname()[1], "ssh", *site.signed))
        packets = [site.knocks[4].recv(2000) for _ in range(2)]
        late.listen()
        with serving(late, Conversation(b"at last")):
            out, err = running.communicate(b"", PATIENCE_S)
        assert (running.returncode, out, err) == (0, b"at last", b"")
        assert packets[0] != packets[1]


def test_timeout_returns_1_with_hint(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, socket.create_connection(full.getsockname()):
        number = full.getsockname()[1]
        assert main(["proxy", "127.0.0.1", str(number), "ssh", *site.signed, "--timeout", "50ms"]) == 1
        said = capsys.readouterr().err
        assert said.startswith(
            f"doorward: 127.0.0.1: knocked once, but {number}/tcp stays silent; check whether door 'ssh'"
        )
        assert main(["proxy", "127.0.0.1", str(number), "9/udp", "--timeout", "50ms"]) == 1
        said = capsys.readouterr().err
        assert "stays silent; check the sequence and its order" in said
        assert "--server-key" in said  # a signed knock opens where forged packets shut the sequence out


def test_a_terminal_shows_that_it_still_knocks(site: Site) -> None:
    """After two seconds, a line for each knock; a log or a pipe gets the reason alone."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, socket.create_connection(full.getsockname()):
        words = ["127.0.0.1", str(full.getsockname()[1]), "ssh", *site.signed, "--timeout", "3s"]
        command = [sys.executable, "-m", "doorward", "proxy", *words]
        ours, its = os.openpty()
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=its) as on_terminal:
            os.close(its)
            with proxy(*words) as in_pipe:
                _, reason = in_pipe.communicate(b"", PATIENCE_S)
            assert on_terminal.wait(PATIENCE_S) == in_pipe.returncode == 1
        shown = os.read(ours, 4096).decode().splitlines()
        os.close(ours)
    assert shown == ["doorward: knocking on 127.0.0.1 (2)…", *reason.decode().splitlines()]


@pytest.mark.parametrize(
    ("doors", "port", "words", "door"),
    [
        ([], "22", [], "ssh"),  # as the port's service is called
        ([], "5432", ["db"], "db"),
        ([], "5432", ["--door", "db"], "db"),
        (["web"], "22", [], "web"),  # the only one
        (["web", "ssh"], "22", [], "ssh"),
        (["web", "ssh"], "22", ["web"], "web"),
    ],
)
def test_choice_of_door(
    site: Site, empty_ssh_directory: Path, doors: list[str], port: str, words: list[str], door: str
) -> None:
    path = empty_ssh_directory.parent / ".config" / "doorward" / "hosts.toml"
    path.parent.mkdir(parents=True)
    path.touch(0o600)
    listed = "".join(f"{each} = []\n" for each in doors)
    text = (
        f'[home]\naddress = "127.0.0.1"\nserver_key = "{KEY}"\nsigned_port = {site.knock_port}\n[home.doors]\n{listed}'
    )
    path.write_text(text)
    assert main(["proxy", "home", port, *words, "--identity", str(key("ed25519")), "--timeout", "1ms"]) == 1
    assert door_in(site.knocks[4].recv(2000)) == door


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["home", "22/udp"], "cannot connect to 22/udp; write a TCP port, such as 22"),
        (["home", "ssh"], "invalid port 'ssh'; write it as 7000/tcp or 7000/udp"),
        (["home", "22", "ssh", "--door", "ssh"], "--door and arguments after the port exclude each other; leave one"),
        (["127.0.0.1", "22", "--gate", "x"], "--gate is for signed knocks, and no server key is known for '127.0.0.1'"),
        (["home", "22"], "names no host; add it with the line that `doorward init` prints"),
        (["127.0.0.1", "9", "ssh", "--server-key", KEY, "--identity", "/none"], "/none: No such file or directory"),
        (["255.255.255.255", "9", "9/udp"], "cannot knock: 255.255.255.255: "),
    ],
)
def test_invalid_call_exits_with_2(capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    assert main(["proxy", *words]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("doorward: ")
    assert message in captured.err
    assert captured.out == ""


def test_closed_stdin_is_not_an_error(site: Site) -> None:
    command = [sys.executable, "-m", "doorward", "proxy", "127.0.0.1", str(site.port), "ssh", *site.signed]
    server = Conversation(b"hello")
    with serving(site.services[4], server):
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE_S)
    assert (done.returncode, done.stdout, done.stderr, server.heard) == (0, b"hello", b"", b"")
