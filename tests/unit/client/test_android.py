"""The client runs on Android's Python: without the modules missing there, and without the server's code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from doorward.client.hosts import read_hosts
from tests.support.signed import Signed
from tests.support.ssh_keygen import key

# Modules that Pythons for Android lack, some or all, and what only a packet filter's side needs.
LACKING = (
    "_curses", "_multiprocessing", "_posixshmem", "crypt", "ctypes", "curses", "grp", "multiprocessing", "nis", "pwd",
    "readline", "resource", "spwd", "syslog", "tkinter",
)  # fmt: skip
SERVER = ["capture", "daemon", "doctor", "gate", "knockd", "lab", "ledger", "netlink", "seen", "session", "setup"]
SCRIPT = f"""
import sys
class Lacking:
    def find_spec(self, name, path=None, target=None):
        if name in {LACKING!r} or name.split(".")[:2] in [["doorward", part] for part in {SERVER!r}]:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Lacking())
from doorward.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def client(home: Path, *words: object) -> subprocess.CompletedProcess[str]:
    """Run a client command as on a phone; everything it sends goes to loopback."""
    environment = {"HOME": str(home), "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-c", SCRIPT, *map(str, words)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert "Error" not in done.stderr, done.stderr
    return done


def test_missing_modules_cannot_be_imported() -> None:
    tries = f"""
for name in [*{LACKING!r}, "doorward.nftables.libnftables", "doorward.daemon.daemon"]:
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    print(name)
"""
    script = SCRIPT.partition("from doorward")[0] + tries
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("", "")


def test_a_sequence(tmp_path: Path) -> None:
    done = client(tmp_path, "knock", "127.0.0.1", "9", "9/udp", "-v", "--delay", "1ms")
    assert (done.returncode, done.stdout) == (0, "1/2  9/tcp to 127.0.0.1\n2/2  9/udp to 127.0.0.1\n"), done.stderr


def test_a_host_from_a_link_and_a_signed_knock_at_it(tmp_path: Path) -> None:
    server = Signed(tmp_path / "server").server.public
    link = f"doorward://127.0.0.1/?key={str(server).replace('+', '%2B')}&door=db&seq=ssh:7013/tcp,9241/udp"
    added = client(tmp_path, "add", link, "--name", "home", "--identity", key("ed25519"))
    assert added.returncode == 0, added.stderr
    assert list(read_hosts(str(tmp_path / ".config/doorward/hosts.toml"))["home"].doors) == ["db", "ssh"]
    shown = client(tmp_path, "knock", "home", "db", "--dump")
    assert (shown.returncode, "db" in shown.stdout) == (0, True), shown.stderr
    assert client(tmp_path, "knock", "home", "db").returncode == 0
    assert client(tmp_path, "knock", "home", "ssh", "--sequence").returncode == 0


def test_proxy_relays_a_connection(tmp_path: Path) -> None:
    server = Signed(tmp_path / "server").server.public
    words = (
        "proxy",
        "127.0.0.1",
        "9",
        "--server-key",
        server,
        "--identity",
        key("ed25519"),
        "--timeout",
        "100ms",
        "ssh",
    )
    done = client(tmp_path, *words)
    assert "9/tcp" in done.stderr  # nothing listens there: it was knocked, and nobody answered
    assert done.returncode == 1
