"""The SSH connection of the current session, from the environment variable that sshd sets (ssh(1))."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from doorward.kernel.sock_diag import Connection
from doorward.model import Address

_NAME = "SSH_CONNECTION"
_MAX_ANCESTORS = 64  # a shell in a terminal multiplexer below sudo is a dozen deep


def ssh_connection(proc: Path = Path("/proc")) -> Connection | None:
    """Return the session's connection; None on a console. sudo and su drop the variable, so parents are read too.

    In a terminal multiplexer it is the connection that started it, which may be gone.
    """
    if found := parse(os.environ.get(_NAME, "")):
        return found
    for environment in _ancestors(proc):
        if found := parse(environment.get(_NAME, "")):
            return found
    return None


def parse(text: str) -> Connection | None:
    """Parse `CLIENT PORT SERVER PORT`; None for anything else."""
    words = text.split()
    if len(words) != 4 or not all(_is_port(word) for word in words[1::2]):
        return None
    try:
        source, destination = map(_address, words[::2])
    except ValueError:
        return None
    return Connection(source, int(words[1]), destination, int(words[3]))


def _is_port(word: str) -> bool:
    return word.isdecimal() and len(word) <= 5 and 0 < int(word) < 65536


def _address(text: str) -> Address:
    """Parse an address without its scope id; an IPv4-mapped one becomes an IPv4 address."""
    address: IPv4Address | IPv6Address = ip_address(text.partition("%")[0])
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


def _ancestors(proc: Path) -> Iterator[dict[str, str]]:
    """Yield the initial environments of this process's ancestors, the parent first."""
    process = os.getppid()
    for _ in range(_MAX_ANCESTORS):
        if process <= 1:
            return
        with suppress(OSError):  # another user's
            yield _environment((proc / str(process) / "environ").read_bytes())
        try:
            process = _parent((proc / str(process) / "stat").read_text(errors="replace"))
        except (OSError, ValueError, IndexError):
            return


def _environment(raw: bytes) -> dict[str, str]:
    pairs = (entry.decode(errors="replace").partition("=") for entry in raw.split(b"\0"))
    return {name: value for name, _, value in pairs}


def _parent(stat: str) -> int:
    """Return the parent's PID from proc_pid_stat(5); the name, in parentheses, may contain anything."""
    return int(stat.rpartition(")")[2].split()[1])
