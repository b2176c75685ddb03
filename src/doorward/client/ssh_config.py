"""Edit ~/.ssh/config so that `ssh HOST` knocks first. The user's own text is preserved."""

from __future__ import annotations

import re
import shlex
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import list2cmdline

from doorward.client.hosts_writer import host_errors
from doorward.errors import UsageError
from doorward.kernel import atomic_file

# Host names that ssh takes literally: no pattern, quote, comment or option.
_PLAIN = re.compile(r"[A-Za-z0-9_.:][A-Za-z0-9_.:-]*")
_HOST_LINE = re.compile(r"\s*host(?:\s*=\s*|\s+)(.*)", re.IGNORECASE)
_DIRECTORY_MODE = 0o700


def host_lines(name: str) -> str:
    """Return the lines for a host."""
    return "\n    ".join((f"Host {name}", *_settings())) + "\n"


def _settings() -> tuple[str, ...]:
    """Return a host's settings: the connection is passed to ssh, or relayed where that is impossible (Windows)."""
    if hasattr(socket, "AF_UNIX"):
        return f"ProxyCommand {_program()} proxy --fdpass %h %p", "ProxyUseFdpass yes"
    return (f"ProxyCommand {_program()} proxy %h %p",)


def _program() -> str:
    """Return what a shell runs as doorward: the installed program, or the one file that this is read from."""
    archive = Path(__file__).resolve().parents[2]
    if not archive.is_file():  # a directory: doorward is installed
        return "doorward"
    words = [sys.executable or "python3", str(archive)]
    return (list2cmdline(words) if sys.platform == "win32" else shlex.join(words)).replace("%", "%%")


def takes(name: str) -> bool:
    """Return whether ssh takes this as the name of one host, not as a pattern or several words."""
    return _PLAIN.fullmatch(name) is not None


def with_host(text: str, name: str) -> str:
    """Return the text with the host's lines appended, or unchanged if it contains them.

    UsageError: the host is configured differently, or ssh would not take the name literally.
    """
    if not takes(name):
        raise UsageError(
            "invalid-ssh-name",
            f"--ssh: {name[:40]!r} is not a plain host name for ssh; use letters, digits, - and dots",
        )
    if host_lines(name) in f"{text}\n":
        return text
    if any(name in line[1].split() for line in map(_HOST_LINE.fullmatch, text.splitlines()) if line):
        raise UsageError(
            "ssh-host-exists",
            f"~/.ssh/config already has a Host {name}; omit --ssh, and add there: {' and '.join(_settings())}",
        )
    gap = "" if not text else "\n" if text.endswith("\n") else "\n\n"
    return text + gap + host_lines(name)


def without_host(text: str, name: str) -> str:
    """Return the text without the lines that `with_host` adds, and with all others."""
    found = re.search(rf"(?:^|(?<=\n))\n?{re.escape(host_lines(name))}(?=\S|\n|\Z)", text)
    return text if found is None else text[: found.start()] + text[found.end() :]


def read(path: Path) -> str:
    """Return the text of the file; empty if it is missing. HostError: it cannot be read."""
    with host_errors(path):
        return path.read_bytes().decode(errors="surrogateescape") if path.exists() else ""


def edit(path: Path, change: Callable[[str], str]) -> None:
    """Change the text of the file, and keep its owner and mode: root may run this. HostError: it cannot be written."""
    with host_errors(path):
        path = path.resolve()  # it may be a symbolic link, which must survive
        atomic_file.make_directories(path.parent, _DIRECTORY_MODE)
        with atomic_file.locked(path.parent):
            old = read(path)
            if (new := change(old)) != old:  # else it may be read-only
                atomic_file.replace(path, new.encode(errors="surrogateescape"), atomic_file.ownership(path))
