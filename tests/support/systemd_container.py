"""A Debian of its own: systemd as the first process, in a folder that forgets all changes, on a host of a lab."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from doorward.lab.namespace import NamespaceHost

BOOT_PATIENCE_S = 120.0  # it takes 4 s
COMMAND_PATIENCE_S = 120.0
_ENVIRONMENT = ("PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive")
_LEADER = "X_NSPAWN_LEADER_PID="  # what systemd-nspawn tells of itself, beside READY=1
# Logs, and what tools and systemd note of their own work; whatever else appears, a package has left.
_NOT_LOOKED_AT = (
    *("dev", "packages", "run/agetty.reload", "run/credentials", "run/log", "run/systemd", "tmp", "var/cache"),
    *("var/lib/apt", "var/lib/dpkg", "var/lib/systemd/timers", "var/log", "var/tmp", "etc/*-"),
)


# Its first process believes the control groups below its own to be all its own.
_IN_GROUPS = 'for group in $GROUPS; do echo $$ >"$group/cgroup.procs"; done; exec "$@"'


def _control_groups(name: str) -> list[Path]:
    """Name a group of this name below those that this process is in, in systemd's hierarchy and the unified one."""
    found = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers in ("", "name=systemd"):
            hybrid = Path("/sys/fs/cgroup", "unified" if not controllers else "systemd")
            found.append((hybrid if hybrid.is_dir() else hybrid.parent) / group.lstrip("/") / name)
    return found


class SystemdContainer:
    """A context manager: inside it the machine runs, with `packages` to read in /packages."""

    def __init__(self, root: Path, packages: Path, host: NamespaceHost) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="doorward-machine-")
        self.console = Path(self._folder.name) / "console"
        self._groups = _control_groups(host.namespace)
        self._command = [
            *(
                "sh",
                "-c",
                _IN_GROUPS,
                "sh",
                "systemd-nspawn",
                "--quiet",
                f"--directory={root}",
                "--volatile=overlay",
                "--boot",
            ),
            *("--register=no", "--keep-unit", f"--machine={host.namespace}", "--notify-ready=yes"),
            *(f"--network-namespace-path={host.path}", "--capability=CAP_NET_ADMIN,CAP_NET_RAW"),
            *(f"--bind-ro={packages}:/packages", "--link-journal=no", "--resolv-conf=off", "--timezone=off"),
        ]

    def __enter__(self) -> Self:
        for group in self._groups:
            group.mkdir()
        notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        with notices, self.console.open("wb") as console:
            path = str(Path(self._folder.name) / "notify")
            notices.bind(path)
            places = " ".join(map(str, self._groups))
            self._process = subprocess.Popen(
                self._command,
                env={**os.environ, "NOTIFY_SOCKET": path, "UNIFIED_CGROUP_HIERARCHY": "yes", "GROUPS": places},
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
            )
            self.leader = 0
            try:
                self._await_boot(notices)
            except BaseException:
                self._end()
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _await_boot(self, notices: socket.socket) -> None:
        deadline_s = time.monotonic() + BOOT_PATIENCE_S
        ended = os.pidfd_open(self._process.pid)
        try:
            while (left_s := deadline_s - time.monotonic()) > 0:
                if notices.fileno() not in select.select([notices.fileno(), ended], [], [], left_s)[0]:
                    break
                lines = notices.recv(65536).decode().splitlines()
                self.leader = next((int(line.removeprefix(_LEADER)) for line in lines if _LEADER in line), self.leader)
                if "READY=1" in lines and self.leader:
                    return
        finally:
            os.close(ended)
        raise AssertionError(f"the machine did not start; its console: {self.console.read_text(errors='replace')}")

    def _end(self) -> None:
        """End it at once, all of its processes with its first one; nothing of it is kept."""
        if self._process.poll() is None:
            os.kill(self.leader or self._process.pid, signal.SIGKILL)  # systemd-nspawn cleans up, and ends with it
        self._process.wait(COMMAND_PATIENCE_S)
        for group in self._groups:
            for folder, _, _ in os.walk(group, topdown=False):
                Path(folder).rmdir()
        self._folder.cleanup()

    def run(self, *words: object, check: bool = True, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run a program in the machine to its end, as root."""
        enter = (
            "nsenter",
            f"--target={self.leader}",
            "--mount",
            "--uts",
            "--ipc",
            "--net",
            "--pid",
            "--root",
            "--wd=/",
        )
        done = subprocess.run(
            [*enter, "env", "-i", *_ENVIRONMENT, *map(str, words)],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=COMMAND_PATIENCE_S,
            check=False,
        )
        if check:
            assert done.returncode == 0, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def says(self, *words: object) -> str:
        """Return what a program prints, without the newline at the end."""
        return self.run(*words).stdout.strip()

    def write(self, path: str, text: str, *, mode: str = "644", owner: str = "root:root") -> None:
        """Put a file there."""
        self.run("sh", "-c", 'cat >"$0"', path, stdin=text)
        self.run("chown", owner, path)
        self.run("chmod", mode, path)

    def files(self) -> dict[str, str]:
        """Return what is on the disk and in /run: kind, mode, owner and target, and of a file its sum."""
        prune = [word for name in _NOT_LOOKED_AT for word in ("-path", f"/{name}", "-o")]
        find = ("find", "/", "(", *prune, "-fstype", "proc", "-o", "-fstype", "sysfs", ")", "-prune", "-o")
        listed = self.run(*find, "-printf", "%P\t%y %m %U:%G %l\n").stdout
        sums = self.run(*find, "-type", "f", "-size", "-200k", "-exec", "cksum", "{}", "+").stdout
        found = dict(line.split("\t", 1) for line in listed.splitlines())
        for line in sums.splitlines():
            checksum, size, path = line.split(" ", 2)
            found[path.lstrip("/")] += f"{checksum} {size}"
        return found
