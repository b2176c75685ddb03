"""The demo of `doorward lab`, step by step: real commands on the lab's hosts, and their output."""

from __future__ import annotations

import os
import select
import shlex
import socket
import subprocess
import sys
import time
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from doorward.cli import output
from doorward.client.connector import Reply, open_connection
from doorward.client.identity import find_signer
from doorward.client.sequence import knock, resolve
from doorward.client.signed import KnockRequest, compose, max_signature_bytes, now_ms, seal_packet
from doorward.errors import HostError
from doorward.lab.namespace import NamespaceHost
from doorward.lab.topology import Lab
from doorward.model import DEFAULT_SIGNED_PORT, Port
from doorward.signed.message import NONCE_BYTES
from doorward.signed.server_key import X25519, generate_private_text, parse_private_key

CONFIGURATION = """\
[gate]
mode = "stealth"

[doors.ssh]
knock = ["7000/tcp", "8000/udp", "9000/tcp"]
opens = ["22/tcp"]
for = "5s"

[signed]

[doors.web]
knock = ["1001/tcp", "2002/tcp", "3003/tcp"]
opens = ["80/tcp"]
"""
FILES = ("doorward.toml", "authorized_keys")
KNOCK = ("7000/tcp", "8000/udp", "9000/tcp")
SCAN = ("nmap", "-n", "-Pn", "-T5", "--max-retries", "0", "--min-rate", "20000", "-p", "1-65535")
PATIENCE_S = 15.0
_NOISE = ("Starting Nmap", "Warning: ")


class Demo:
    """Runs the demo; `directory` holds the server's configuration, ledger, socket and log."""

    def __init__(self, lab: Lab, directory: Path) -> None:
        self._lab = lab
        self._directory = directory
        self._address = str(lab.server.ipv4)
        self._steps = 0

    @staticmethod
    def environment(directory: Path) -> dict[str, str]:
        """Return the environment with which the server's commands find its files."""
        names = ("CONFIGURATION_DIRECTORY", "RUNTIME_DIRECTORY", "STATE_DIRECTORY")
        return {name: str(directory) for name in names}

    def run(self) -> None:
        """Run every step. HostError: a step failed."""
        self._step("A server, a router, a client and a stranger; the server has a service on port 22.")
        # It may outlive the demo, and must not hold open the demo's standard error.
        self._lab.server.start_greeter(22, stderr=subprocess.DEVNULL)
        (self._directory / "doorward.toml").write_text(CONFIGURATION)
        self._make_keys()
        self._show(self._lab.server, "cat", "doorward.toml")
        self._show(self._lab.server, "cat", "authorized_keys")
        self._start_daemon()
        self._step("Nothing is visible: a stranger scans all 65,535 ports.")
        self._show(self._lab.stranger, *SCAN, self._address)
        self._step("The client knocks and connects immediately.")
        connection = self._knock_and_connect()
        self._step("The door is open to that one address; the stranger stays out.")
        self._doorward("status")
        self._show(self._lab.stranger, "nmap", "-n", "-Pn", "-p", "22", self._address)
        self._step("The door closes by itself; the established connection continues.")
        self._wait_for_log("closed ssh")
        self._doorward("status")
        self._check_connection(connection)
        self._show(self._lab.client, "nmap", "-n", "-Pn", "-p", "22", self._address)
        self._step("A scan in ascending order hits the knock ports of `web` in order, and opens nothing.")
        self._show(self._lab.stranger, *SCAN, "-r", self._address)
        self._doorward("status")
        self._step("The same door by a signed knock: the client's own SSH key, in one packet that is valid once.")
        self._doorward("key", "server")
        packet = self._signed_knock()
        self._step("An attacker captured that packet, and sends a copy from another address.")
        self._prompt(self._lab.stranger, f"cat copy-of-{len(packet)}-bytes > /dev/udp/{self._address}/62201")
        self._send(self._lab.stranger, packet)
        self._wait_for_log("copy of an earlier packet")
        self._show(self._lab.stranger, "nmap", "-n", "-Pn", "-p", "22", self._address)
        self._step("The access log shows who got in, and who tried.")
        self._doorward("log")

    def _step(self, text: str) -> None:
        self._steps += 1
        bold, plain = ("\033[1m", "\033[0m") if sys.stdout.isatty() else ("", "")
        output.line("")
        output.colored_line(f"{bold}{self._steps}. {text}{plain}")

    def _prompt(self, host: NamespaceHost, command: str) -> None:
        output.line(f"   {host.namespace.rpartition('-')[2]}$ {command}")
        sys.stdout.flush()

    def _print(self, text: str) -> None:
        for line in text.splitlines():
            if line.strip() and not line.startswith(_NOISE):
                output.line(f"     {line}")
        sys.stdout.flush()

    def _show(self, host: NamespaceHost, *command: str) -> None:
        self._prompt(host, shlex.join(command))
        words = [str(self._directory / word) if word in FILES else word for word in command]
        self._print(host.run(words, timeout_s=120).stdout)

    def _doorward(self, *words: str) -> None:
        self._prompt(self._lab.server, shlex.join(("doorward", *words)))
        command = [sys.executable, "-m", "doorward", *words]
        self._print(self._lab.server.run(command, env=self.environment(self._directory)).stdout)

    def _start_daemon(self) -> None:
        self._prompt(self._lab.server, "doorward run &")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready, (self._directory / "log").open("w") as log:
            ready.bind(str(self._directory / "notify"))
            env = self.environment(self._directory) | {"NOTIFY_SOCKET": str(self._directory / "notify")}
            daemon = self._lab.server.popen([sys.executable, "-m", "doorward", "run"], env=env, stderr=log, stdout=log)
            waits = os.pidfd_open(daemon.pid)
            select.select([ready.fileno(), waits], [], [], PATIENCE_S)
            os.close(waits)
        log_text = (self._directory / "log").read_text()
        if daemon.poll() is not None:
            raise HostError("daemon-not-started", f"the daemon did not start: {log_text.strip()}")
        self._print(log_text)

    def _knock_and_connect(self) -> socket.socket:
        self._prompt(self._lab.client, f"doorward knock {self._address} 7000 8000/udp 9000 -v")
        sequence = tuple(map(Port.parse, KNOCK))

        def inside() -> tuple[socket.socket, float]:
            targets = resolve(self._address)
            knock(targets, sequence, report=lambda to, n, port: self._print(f"{n}/{len(sequence)}  {port} to {to}"))
            left_s = time.perf_counter()
            connection = socket.create_connection((self._address, 22), PATIENCE_S)
            return connection, time.perf_counter() - left_s

        connection, took_s = self._lab.client.call(inside)
        self._print(f"connected to port 22, {took_s * 1000:.2f} ms after the last knock")
        self._print(f"the service replies: {connection.recv(200).decode().strip()}")
        return connection

    def _make_keys(self) -> None:
        """Create the server's key, and an authorized SSH key for the client."""
        (self._directory / "server.key").touch(0o600)
        (self._directory / "server.key").write_text(generate_private_text(X25519))
        mine = ed25519.Ed25519PrivateKey.generate()
        (self._directory / "id_ed25519").touch(0o600)
        form = Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()
        (self._directory / "id_ed25519").write_bytes(mine.private_bytes(*form))
        public = mine.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
        (self._directory / "authorized_keys").touch(0o600)
        (self._directory / "authorized_keys").write_text(f'doors="ssh" {public} laptop\n')

    def _signed_knock(self) -> bytes:
        """Knock as `doorward proxy` does, and return the packet."""
        server = parse_private_key((self._directory / "server.key").read_text()).public
        self._prompt(self._lab.client, f"doorward proxy {self._address} 22 ssh --server-key {server}")
        signer = find_signer(str(self._directory / "id_ed25519"), None, max_signature_bytes(server))
        request = KnockRequest(server, "ssh")
        packet = seal_packet(request, compose(request, signer, "", now_ms(), os.urandom(NONCE_BYTES)))

        def inside() -> tuple[socket.socket | Reply, float]:
            (target,) = resolve(self._address)
            begun_s = time.perf_counter()
            self._send(self._lab.client, packet)
            return open_connection(target, 22, PATIENCE_S), time.perf_counter() - begun_s

        connection, took_s = self._lab.client.call(inside)
        if isinstance(connection, Reply):
            raise HostError("signed-knock-failed", "the signed knock opened nothing; `doorward log` may show why")
        with connection:
            self._print(
                f"connected to port 22, {took_s * 1000:.2f} ms after the packet of {len(packet)} bytes was sent"
            )
            self._print(f"the service replies: {connection.recv(200).decode().strip()}")
        return packet

    def _send(self, host: NamespaceHost, packet: bytes) -> None:
        def inside() -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.sendto(packet, (self._address, DEFAULT_SIGNED_PORT.number))

        host.call(inside)

    def _wait_for_log(self, part: str) -> None:
        """Wait until a line of the daemon's log contains `part`."""
        deadline_s = time.monotonic() + PATIENCE_S
        with (self._directory / "log").open() as log:
            while time.monotonic() < deadline_s:
                if part in log.readline():
                    return
                time.sleep(0.02)
        raise HostError("log-line-missing", f"the log does not contain {part!r}; `doorward log` may show why")

    def _check_connection(self, connection: socket.socket) -> None:
        with connection:
            connection.settimeout(PATIENCE_S)
            connection.sendall(b"still here?\n")
            reply = connection.recv(200).decode().strip()
        self._print(f"the established connection still answers: {reply}")
