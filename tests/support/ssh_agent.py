"""The real ssh-agent; and agents that say what a test wants, on sockets of their own."""

from __future__ import annotations

import base64
import os
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from doorward.signed.ssh_wire import SshReader, string
from tests.conftest import unavailable
from tests.support.authenticator import Authenticator

LIST, LIST_ANSWER, SIGN, SIGN_ANSWER, FAILURE = 11, 12, 13, 14, 5


class RealAgent:
    """OpenSSH's agent, in the foreground."""

    def __init__(self, folder: Path) -> None:
        if shutil.which("ssh-agent") is None:
            unavailable("not installed: ssh-agent (openssh-client)")
        self.path = folder / "agent"
        command = ["ssh-agent", "-D", "-a", str(self.path)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert self._process.stdout is not None
        self._process.stdout.readline()  # it says where it listens once it does

    def add(self, *words: object, given: str | None = None) -> None:
        """Run ssh-add; passphrases come from a program, since there is no terminal."""
        environment = {**os.environ, "SSH_AUTH_SOCK": str(self.path), "SSH_ASKPASS_REQUIRE": "force"}
        if given is not None:
            answer = self.path.with_name("answer")
            answer.write_text(f"#!/bin/sh\necho '{given}'\n")
            answer.chmod(0o700)
            environment["SSH_ASKPASS"] = str(answer)
        command = ["ssh-add", "-q", *map(str, words)]
        done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
        assert done.returncode == 0, done.stderr

    def close(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process.wait(60)


@contextmanager
def real_agent(folder: Path) -> Iterator[RealAgent]:
    """Run an agent until the end of the block."""
    agent = RealAgent(folder)
    try:
        yield agent
    finally:
        agent.close()


@contextmanager
def agent_that(folder: Path, answer: Callable[[bytes], bytes | None]) -> Iterator[Path]:
    """Listen at a socket; what it is sent, without its length, goes to `answer`, whose raw bytes are sent back.

    None: the connection stays, and nothing is sent. b"": it is closed.
    """
    path = folder / "made-up-agent"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=_serve, args=(listener, answer), daemon=True)
        thread.start()
        try:
            yield path
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def _serve(listener: socket.socket, answer: Callable[[bytes], bytes | None]) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection, connection.makefile("rb") as requests:
            while head := requests.read(4):
                reply = answer(requests.read(int.from_bytes(head)))
                if reply == b"":
                    break
                connection.sendall(reply or b"")


def framed(kind: int, body: bytes = b"") -> bytes:
    """Write a whole reply."""
    return string(bytes([kind]) + body)


def listing(*keys: tuple[bytes, bytes]) -> bytes:
    """Write the answer to a request for the list: blobs and comments."""
    return framed(LIST_ANSWER, len(keys).to_bytes(4) + b"".join(string(blob) + string(name) for blob, name in keys))


def token_agent(token: Authenticator, *, touched: bool = True) -> Callable[[bytes], bytes]:
    """Answer as an agent does that has one key, in a security key."""

    def answer(request: bytes) -> bytes:
        reader = SshReader(request, "the request")
        if reader.number(1) == LIST:
            return listing((token.blob, b"token"))
        if reader.string() != token.blob or not touched:
            return framed(FAILURE)
        return framed(SIGN_ANSWER, string(token.sign_data(reader.string())))

    return answer


def blob_of(private: Path) -> bytes:
    """Return the blob of a key's public half."""
    return base64.b64decode(private.with_name(f"{private.name}.pub").read_text().split()[1])
