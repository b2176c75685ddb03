"""doorward.pyz: the client in one file, where only Python is installed, and where the system is not a Unix."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from doorward.signed.envelope import Decryptor
from doorward.signed.message import parse_plaintext, target_hash
from doorward.signed.server_key import X25519, generate_private_text, parse_private_key
from scripts.pyz import SOURCE, modules, write
from tests.support.authenticator import Authenticator
from tests.support.signed import HAS_HYBRID
from tests.support.ssh_agent import token_agent
from tests.support.ssh_keygen import key, ssh_keygen

MOST_BYTES = 300_000
SERVER = parse_private_key(generate_private_text(X25519))
PATIENCE_S = 60.0
# What Windows does not have. sys.platform stays, since Python's own modules ask for it.
NOT_A_UNIX = """
import builtins, errno, io, os, runpy, signal, socket, _socket, sys
for name in ("fcntl", "grp", "pty", "pwd", "resource", "termios", "tty"):
    sys.modules[name] = None
for name in ("O_CLOEXEC", "O_DIRECTORY", "O_NOCTTY", "O_NOFOLLOW", "O_NONBLOCK"):
    delattr(os, name)
for name in ("chown", "fchmod", "geteuid", "getuid", "readv"):
    delattr(os, name)
for module in (socket, _socket):
    del module.AF_UNIX
def socketpair(): # as Python's own on Windows
    with socket.create_server(("127.0.0.1", 0)) as server:
        return socket.create_connection(server.getsockname()), server.accept()[0]
socket.socketpair = socketpair
del socket.send_fds, errno.ENONET, signal.SIGCHLD, signal.SIGHUP, signal.SIGQUIT
def without_terminal(opened):
    def attempt(path, *words, **options):
        if path == "/dev/tty":
            raise FileNotFoundError(errno.ENOENT, "blocked", path)
        return opened(path, *words, **options)
    return attempt
os.open, io.open, builtins.open = map(without_terminal, (os.open, io.open, builtins.open))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def pyz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pyz") / "doorward.pyz"
    write(path, 1_700_000_000)
    return path


class Client:
    """A user without keys who has the one file, and types its commands."""

    def __init__(self, home: Path, *start: object) -> None:
        self.home, self._start = home, list(map(str, start))
        self.env = {"HOME": str(home), "PATH": os.environ["PATH"]}

    def popen(self, *words: object) -> subprocess.Popen[bytes]:
        pipe, command = subprocess.PIPE, [*self._start, *map(str, words)]
        return subprocess.Popen(command, env=self.env, cwd=self.home, stdin=pipe, stdout=pipe, stderr=pipe)

    def type(self, *words: object, stdin: str = "") -> tuple[int, str, str]:
        """Return the exit status, the output and the errors."""
        with self.popen(*words) as running:
            out, err = running.communicate(stdin.encode(), PATIENCE_S)
        return running.returncode, out.decode(), err.decode()


@pytest.fixture
def elsewhere(pyz: Path, tmp_path: Path) -> Client:
    """Where there is no fcntl, termios, os.readv, AF_UNIX or /dev/tty."""
    return Client(tmp_path, sys.executable, "-c", NOT_A_UNIX, pyz)


@pytest.fixture
def bare(pyz: Path, tmp_path: Path) -> Client:
    """Where Python has its standard library alone."""
    return Client(tmp_path, sys.executable, "-I", "-S", pyz)


@contextmanager
def terminal_agent(token: Authenticator) -> Iterator[str]:
    """Serve an agent at a path that is opened like a named pipe of Windows: a terminal in raw mode."""
    ours, theirs = os.openpty()
    tty.setraw(theirs)
    answer = token_agent(token)

    def serve() -> None:
        with open(ours, "rb", closefd=False) as requests:
            while head := requests.read(4):
                os.write(ours, answer(requests.read(int.from_bytes(head))))

    threading.Thread(target=serve, daemon=True).start()  # its last read never returns
    yield os.ttyname(theirs)


def knocked_door(receiver: socket.socket) -> str:
    target = parse_plaintext(Decryptor(SERVER).open(receiver.recv(2000))).request.target
    return {target_hash("", door): door for door in ("ssh", "web")}[target]


def add_home(client: Client, receiver: socket.socket, *words: object) -> tuple[int, str, str]:
    port = receiver.getsockname()[1]
    signed = ["--server-key", SERVER.public, "--signed-port", port, "--door", "ssh"]
    return client.type("add", "home", "--address", "127.0.0.1", *signed, *words)


def test_file_is_small_and_reproducible(pyz: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    write(again, 1_700_000_000)
    assert again.read_bytes() == pyz.read_bytes()
    assert pyz.stat().st_size <= MOST_BYTES
    assert os.access(pyz, os.X_OK)


def test_debian_client_has_its_modules_too() -> None:
    listed = (SOURCE.parent / "debian" / "doorward-client.install").read_text().splitlines()
    places = [line.removeprefix("usr/lib/python3*/dist-packages/") for line in listed]
    for path in modules():
        name = str(path.relative_to(SOURCE))
        assert any(name == place or name.startswith(f"{place}/") for place in places), name


@pytest.mark.skipif(not HAS_HYBRID, reason="the types are those of a newer cryptography")
@pytest.mark.parametrize("platform", ["darwin", "win32"])  # on Linux scripts/test runs mypy over everything
def test_mypy_accepts_the_client_on(platform: str, tmp_path: Path) -> None:
    options = ["--platform", platform, "--cache-dir", str(tmp_path)]
    command = [sys.executable, "-m", "mypy", *options, *map(str, modules())]
    done = subprocess.run(command, cwd=SOURCE.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_python_alone_suffices_for_sequences(bare: Client, receiver: socket.socket) -> None:
    port = receiver.getsockname()[1]
    status, out, err = bare.type("knock", "127.0.0.1", "9", f"{port}/udp", "-v")
    assert (status, err) == (0, "")
    assert out.splitlines()[-1].split() == ["2/2", f"{port}/udp", "to", "127.0.0.1"]
    assert receiver.recv(9) == b"\0"
    assert bare.type("add", "home", "--address", "127.0.0.1", "--door", f"ssh:{port}/udp")[0] == 0
    assert bare.type("knock", "home", "ssh") == (0, "", "")
    assert receiver.recv(9) == b"\0"


@pytest.mark.parametrize(
    "words",
    [["knock", "127.0.0.1", "ssh"], ["hold", "127.0.0.1", "ssh"], ["add", "home"], ["proxy", "127.0.0.1", "22"]],
)
def test_signed_knocks_need_cryptography_and_say_so(bare: Client, words: list[str]) -> None:
    status, out, err = bare.type(*words, "--server-key", SERVER.public)
    assert (status, out) == (2, "")
    assert err.startswith("doorward: signed knocks need the Python library cryptography; run `")
    assert err.count("\n") == 1


def test_other_commands_are_named_as_missing(bare: Client) -> None:
    status, _, err = bare.type("run")
    assert (status, err.count("\n")) == (2, 1)
    assert "client alone" in err


def test_ssh_runs_the_file(bare: Client, pyz: Path) -> None:
    assert bare.type("add", "home", "--door", "ssh:7000/tcp", "--ssh")[0] == 0
    assert (bare.home / ".ssh/config").read_text() == (
        f"Host home\n    ProxyCommand {sys.executable} {pyz} proxy --fdpass %h %p\n    ProxyUseFdpass yes\n"
    )


def test_add_where_nothing_of_unix_is(elsewhere: Client, receiver: socket.socket, pyz: Path) -> None:
    status, out, err = add_home(elsewhere, receiver, "--ssh", "--identity", key("ed25519"))
    assert (status, err) == (0, "")
    assert "`ssh home` now knocks first" in out
    config = (elsewhere.home / ".ssh/config").read_text()
    assert config == f"Host home\n    ProxyCommand {sys.executable} {pyz} proxy %h %p\n"


def test_sequence_where_nothing_of_unix_is(elsewhere: Client, receiver: socket.socket) -> None:
    assert elsewhere.type("knock", "127.0.0.1", "9", f"{receiver.getsockname()[1]}/udp") == (0, "", "")
    assert receiver.recv(9) == b"\0"


def test_passphrase_where_nothing_of_unix_is(elsewhere: Client, receiver: socket.socket) -> None:
    private = elsewhere.home / "locked"
    ssh_keygen("-q", "-t", "ed25519", "-N", "a secret", "-f", str(private))
    assert add_home(elsewhere, receiver, "--identity", private)[0] == 0
    status, _, err = elsewhere.type("knock", "home", stdin="a secret\n")
    assert status == 0, err
    assert f"Enter passphrase for key '{private}'" in err
    assert knocked_door(receiver) == "ssh"


def test_agent_where_nothing_of_unix_is(elsewhere: Client, receiver: socket.socket) -> None:
    assert add_home(elsewhere, receiver)[0] == 0
    status, _, err = elsewhere.type("knock", "home")
    assert status == 2
    assert r"no ssh-agent answers at \\.\pipe\openssh-ssh-agent" in err
    assert "`Start-Service ssh-agent`" in err
    with terminal_agent(Authenticator()) as path:
        elsewhere.env["SSH_AUTH_SOCK"] = path
        assert elsewhere.type("knock", "home") == (0, "", "")
    assert knocked_door(receiver) == "ssh"


def test_hold_where_nothing_of_unix_is(elsewhere: Client, receiver: socket.socket) -> None:
    assert add_home(elsewhere, receiver, "--identity", key("ed25519"))[0] == 0
    command = [sys.executable, "-c", "import sys; print('ran'); sys.exit(7)"]
    assert elsewhere.type("hold", "home", "ssh", "--", *command) == (7, "ran\n", "")
    assert knocked_door(receiver) == "ssh"


def test_relay_where_nothing_of_unix_is(elsewhere: Client, receiver: socket.socket) -> None:
    assert add_home(elsewhere, receiver, "--identity", key("ed25519"))[0] == 0
    service = socket.create_server(("127.0.0.1", 0))
    with service, elsewhere.popen("proxy", "home", service.getsockname()[1], "ssh") as proxy:
        connection, _ = service.accept()
        with connection:
            connection.sendall(b"to the client")
            connection.shutdown(socket.SHUT_WR)
            out, err = proxy.communicate(b"to the service", PATIENCE_S)
            assert connection.recv(99, socket.MSG_WAITALL) == b"to the service"
    assert (proxy.returncode, out, err) == (0, b"to the client", b"")
    assert knocked_door(receiver) == "ssh"
