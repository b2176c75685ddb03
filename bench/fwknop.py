"""Debian's fwknopd, the peer of signed knocks: the daemon on a lab's server, and its client's packets."""

from __future__ import annotations

import base64
import os
import secrets
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from bench.rig import PATIENCE_S
from doorward.lab.topology import Lab

PORT = 62201
OPEN_S = 30
SNIFFING = "Starting fwknopd main event loop"
CONFIGURATION = """
PCAP_INTF                {interface};
ENABLE_DESTINATION_RULE  N;
"""
STANZA = """
SOURCE             ANY
KEY_BASE64         {key}
HMAC_KEY_BASE64    {hmac}
OPEN_PORTS         tcp/22
FW_ACCESS_TIMEOUT  {seconds}
"""
FILTER = """*filter
:INPUT DROP [0:0]
-A INPUT -i lo -j ACCEPT
-A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
{server}COMMIT
"""
UDP_SERVER = f"-A INPUT -p udp --dport {PORT} -j ACCEPT\n"


class Secret(NamedTuple):
    """What client and server share: the key of Rijndael and the one of the HMAC, as base64."""

    key: str
    hmac: str


class Peer(NamedTuple):
    """A daemon that runs, and the secret of its last stanza."""

    daemon: subprocess.Popen[str]
    secret: Secret
    server: str

    def packet(self, source: str) -> bytes:
        """Have fwknop's client make a packet that opens port 22 for `source`."""
        return client_packet(self.secret, self.server, source)


def client_packet(secret: Secret, server: str, source: str) -> bytes:
    """Have fwknop's client make a packet that opens port 22 for `source`."""
    with tempfile.TemporaryDirectory(prefix="doorward-bench-") as folder:
        saved = Path(folder, "packet")
        words = ["--test", "--save-packet", saved, "--access", "tcp/22", "--allow-ip", source]
        words += ["--destination", server, "--key-base64-rijndael", secret.key]
        words += ["--key-base64-hmac", secret.hmac, "--use-hmac"]
        words += ["--no-rc-file", "--no-home-dir", "--no-save-args", "--save-args-file", Path(folder, "args")]
        subprocess.run(["fwknop", *map(str, words)], check=True, stdout=subprocess.DEVNULL)
        return saved.read_bytes().strip()


def secrets_for(stanzas: int) -> list[Secret]:
    """Make the keys of so many stanzas."""
    return [Secret(_random_base64(32), _random_base64(64)) for _ in range(stanzas)]


@contextmanager
def fwknopd(lab: Lab, *, udp_server: bool, stanzas: int = 1) -> Iterator[Peer]:
    """Run fwknopd with so many stanzas."""
    shared = secrets_for(stanzas)
    access = "".join(STANZA.format(key=key, hmac=hmac, seconds=OPEN_S) for key, hmac in shared)
    with running(lab, access, udp_server=udp_server) as daemon:
        yield Peer(daemon, shared[-1], str(lab.server.ipv4))


@contextmanager
def running(lab: Lab, access: str, *, udp_server: bool = False) -> Iterator[subprocess.Popen[str]]:
    """Run fwknopd behind iptables that drop all but it lets in; it listens inside, by libpcap or by a UDP socket."""
    lab.server.run(["iptables-restore"], stdin=FILTER.format(server=UDP_SERVER if udp_server else ""))
    with tempfile.TemporaryDirectory(prefix="doorward-bench-") as folder:
        files = {
            "fwknopd.conf": CONFIGURATION.format(interface=lab.server.interface),
            "access.conf": access,
        }
        for name, text in files.items():
            path = Path(folder, name)
            path.touch(0o600)
            path.write_text(text)
        words = ["--foreground", "--config-file", f"{folder}/fwknopd.conf", "--access-file", f"{folder}/access.conf"]
        words += ["--run-dir", folder, "--pid-file", f"{folder}/pid", "--digest-file", f"{folder}/digests"]
        with Path(folder, "log").open("w") as log:
            daemon = lab.server.popen(
                ["fwknopd", *words, *(["--udp-server"] if udp_server else [])], stdout=log, stderr=log
            )
        _await_start(daemon, Path(folder, "log"), udp_server=udp_server)
        try:
            yield daemon
        finally:
            daemon.terminate()
            daemon.wait(PATIENCE_S)


def garbage(like: bytes, count: int) -> list[bytes]:
    """Make payloads of the length of a packet that are base64, as its first look wants, and nothing else."""
    return [base64.b64encode(os.urandom(len(like)))[: len(like)] for _ in range(count)]


def _random_base64(count: int) -> str:
    return base64.b64encode(secrets.token_bytes(count)).decode()


def _await_start(daemon: subprocess.Popen[str], log: Path, *, udp_server: bool) -> None:
    until_s = time.monotonic() + PATIENCE_S
    while not (_is_bound(daemon.pid) if udp_server else SNIFFING in log.read_text()):
        if time.monotonic() > until_s or daemon.poll() is not None:
            raise RuntimeError(f"fwknopd did not start: {log.read_text()}")
        time.sleep(0.01)


def _is_bound(pid: int) -> bool:
    return f":{PORT:04X} " in Path(f"/proc/{pid}/net/udp").read_text()
