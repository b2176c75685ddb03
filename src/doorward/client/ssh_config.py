"""The lines of ~/.ssh/config by which `ssh HOST` knocks. What the user wrote there stays as it is."""

from __future__ import annotations

import re
from pathlib import Path

from doorward.client.hosts_writer import complaining, write
from doorward.errors import UsageError
from doorward.kernel import atomic_file

# What ssh takes as it is: no pattern, no quotes, no comment, and no option.
_PLAIN = re.compile(r"[A-Za-z0-9_.:][A-Za-z0-9_.:-]*")
_HOST_LINE = re.compile(r"\s*host(?:\s*=\s*|\s+)(.*)", re.IGNORECASE)
_PROXY = "ProxyCommand doorward proxy %h %p"
_FOLDER_MODE = 0o700


def ssh_config_path() -> Path:
    """Tell where ssh looks for its user's settings."""
    return Path.home() / ".ssh/config"


def host_lines(name: str) -> str:
    """Write the lines for a host."""
    return f"Host {name}\n    {_PROXY}\n"


def takes(name: str) -> bool:
    """Return whether ssh takes this as the name of one host, not as a pattern or several words."""
    return _PLAIN.fullmatch(name) is not None


def with_host(text: str, name: str) -> str:
    """Give the file's text with these lines at its end, where they change nothing of what stands before them.

    The same text: it has them. UsageError: it has the host in another way, or no such name can stand there.
    """
    if not takes(name):
        raise UsageError(
            f"--ssh: {name[:40]!r} means something else to ssh; take a name of letters, digits, - and dots"
        )
    if host_lines(name) in f"{text}\n":
        return text
    if any(name in line[1].split() for line in map(_HOST_LINE.fullmatch, text.splitlines()) if line):
        raise UsageError(f"~/.ssh/config has a Host {name} already; leave --ssh out, and write there: {_PROXY}")
    gap = "" if not text else "\n" if text.endswith("\n") else "\n\n"
    return text + gap + host_lines(name)


def read(path: Path) -> str:
    """Read the file as it is; a missing one is empty. HostError: it cannot be read."""
    with complaining(path):
        return path.read_bytes().decode(errors="surrogateescape") if path.exists() else ""


def save(path: Path, text: str) -> None:
    """Write the file, whole or not at all. HostError: it cannot be written."""
    with complaining(path):
        path = path.resolve()  # the file may be a link to where the user keeps such files
        atomic_file.make_directories(path.parent, _FOLDER_MODE)
        write(path, text.encode(errors="surrogateescape"))
