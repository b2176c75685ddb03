"""A user `doorward` on a lab's host only, and folders that it can use; the machine's own users stay as they are."""

from __future__ import annotations

import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import doorward
from doorward.lab.namespace import NamespaceHost
from tests.conftest import unavailable
from tests.support.daemon import RunningDaemon

USER = 61_234
GROUP = 61_235
STAFF = 61_236
METRICS = 61_237  # the user and the group of the metrics unit
AS_THE_UNIT = [
    "setpriv", "--reuid", str(USER), "--regid", str(GROUP), "--clear-groups", "--no-new-privs",
    *(word for kind in ("bounding-set", "inh-caps", "ambient-caps")
      for word in (f"--{kind}", "-all,+net_admin,+net_bind_service,+bpf,+perfmon")),
]  # fmt: skip
_HOST_FILES = Path("/etc/netns")  # `ip netns exec` puts what is in NAME/ over the files of /etc


@contextmanager
def service_user(host: NamespaceHost) -> Iterator[None]:
    """Let there be a user `doorward`, and a group `staff-of-doors`, for all that is run on this host."""
    folder = _HOST_FILES / host.namespace
    folder.mkdir(parents=True)
    try:
        entry = f"doorward:x:{USER}:{GROUP}::/nonexistent:/usr/sbin/nologin\n"
        metrics = f"doorward-metrics:x:{METRICS}:{METRICS}::/nonexistent:/usr/sbin/nologin\n"
        (folder / "passwd").write_text(Path("/etc/passwd").read_text() + entry + metrics)
        groups = f"doorward:x:{GROUP}:\nstaff-of-doors:x:{STAFF}:\ndoorward-metrics:x:{METRICS}:doorward\n"
        (folder / "group").write_text(Path("/etc/group").read_text() + groups)
        yield
    finally:
        shutil.rmtree(folder)


@contextmanager
def open_folder() -> Iterator[Path]:
    """Return a folder that every user can reach, as pytest's own cannot."""
    folder = Path(tempfile.mkdtemp(prefix="doorward-test-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def for_the_user(daemon: RunningDaemon) -> None:
    """Return the user the daemon's directories, and the configuration to read."""
    for path in (daemon.state, daemon.control.parent):
        os.chown(path, USER, GROUP)
    daemon.state.chmod(0o700)
    os.chown(daemon.config, 0, GROUP)
    daemon.config.chmod(0o640)
    (daemon.folder / "notify").chmod(0o666)


def wrapped(hold: Path, *commands: str) -> list[str]:
    """Return what to put before a command, so that every user can read the program, in a mount namespace of its own.

    The program may be installed below /root. The `commands` of the shell change that namespace further.
    """
    script = [*_opened(hold), *commands, 'exec "$@"']
    return ["unshare", "--mount", "sh", "-ec", "\n".join(script), "sh"]


def _opened(hold: Path) -> Iterator[str]:
    paths = {Path(place) for place in (sys.prefix, sys.base_prefix, os.path.dirname(doorward.__file__))}  # noqa: PTH120
    for number, closed in enumerate(sorted({found for path in paths if (found := _closed(path))})):
        below = {path.relative_to(closed).parts[0] for path in paths if path.is_relative_to(closed)}
        if any(_is_closed(closed / name) for name in below):
            unavailable(f"nobody but root can read {closed}, where doorward is installed")
        kept = hold / str(number)
        kept.mkdir(parents=True, exist_ok=True)
        yield f"mount --bind {closed} {kept}; mount -t tmpfs -o mode=755 doorward-test {closed}"
        for name in sorted(below):
            yield f"mkdir {closed}/{name}; mount --bind {kept}/{name} {closed}/{name}"


def _closed(path: Path) -> Path | None:
    """Return the first folder on the way that other users cannot enter."""
    return next((folder for folder in reversed((path, *path.parents)) if _is_closed(folder)), None)


def _is_closed(folder: Path) -> bool:
    return not folder.stat().st_mode & stat.S_IXOTH


def status_of(pid: int) -> dict[str, str]:
    """Read /proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def children_of(pid: int) -> list[int]:
    """List a process's children."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
