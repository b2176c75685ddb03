"""OpenSSH's server and agent on a lab's hosts."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from doorward.lab_host import Host
from tests.support import ssh_keygen
from tests.support.daemon import PATIENCE_S

SSH, SSHD, AGENT, ADD = "/usr/bin/ssh", "/usr/sbin/sshd", "/usr/bin/ssh-agent", "/usr/bin/ssh-add"


@contextmanager
def running_sshd(host: Host, folder: Path, keys: Sequence[str]) -> Iterator[None]:
    """Run sshd on port 22 of a host, for root by these public keys, until the end of the block."""
    folder.mkdir(mode=0o700)
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd's empty folder, which its unit makes elsewhere
    host_key = folder / "host_key"
    ssh_keygen.ssh_keygen("-q", "-t", "ed25519", "-N", "", "-f", str(host_key))
    (folder / "authorized").write_text("".join(f"{key}\n" for key in keys))
    (folder / "config").write_text(
        f"HostKey {host_key}\nAuthorizedKeysFile {folder / 'authorized'}\nPidFile none\nUsePAM no\nStrictModes no\n"
        "PermitRootLogin prohibit-password\nListenAddress 0.0.0.0\nListenAddress ::\nPrintMotd no\n"
    )
    log = folder / "log"
    with log.open("w") as written:
        command = [SSHD, "-D", "-e", "-f", folder / "config"]
        daemon = host.popen(command, stdin=subprocess.DEVNULL, stdout=written, stderr=written)
    try:
        _await_listening(log)
        yield
    finally:
        daemon.terminate()
        daemon.wait(PATIENCE_S)


def _await_listening(log: Path) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while log.read_text().count("Server listening") < 2:
        assert time.monotonic() < deadline_s, log.read_text()
        time.sleep(0.01)  # sshd tells nobody but its log


@contextmanager
def running_agent(host: Host, *keys: Path) -> Iterator[Path]:
    """Run an ssh-agent that holds these keys; gives its socket."""
    socket = keys[0].parent / f"agent-{os.getpid()}-{keys[0].name}"
    agent = host.popen([AGENT, "-D", "-a", socket], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    try:
        assert agent.stdout is not None
        assert "SSH_AUTH_SOCK" in agent.stdout.readline()
        host.run([ADD, "-q", *keys], env={"SSH_AUTH_SOCK": str(socket)})
        yield socket
    finally:
        agent.terminate()
        agent.communicate(timeout=PATIENCE_S)
        socket.unlink(missing_ok=True)
