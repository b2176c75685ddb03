"""OpenSSH's server on a lab's host."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from doorward.lab.namespace import NamespaceHost
from tests.support import ssh_keygen
from tests.support.daemon import PATIENCE_S

SSH, SSHD = "/usr/bin/ssh", "/usr/sbin/sshd"


@contextmanager
def running_sshd(host: NamespaceHost, folder: Path, keys: Sequence[str]) -> Iterator[None]:
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
