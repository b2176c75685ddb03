"""What `doorward init` looks at: who listens, by which port the operator is logged in, where the host is reached."""

from __future__ import annotations

import os
import pwd
import socket
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import ip_network
from pathlib import Path
from typing import NamedTuple

from doorward.doctor.host import Network
from doorward.doctor.network import read_network
from doorward.errors import HostError
from doorward.kernel.sock_diag import listeners
from doorward.kernel.ssh_session import SshConnection, ssh_connection
from doorward.model import Address, Port, Protocol

SSH_PROGRAMS = ("sshd", "dropbear", "tinysshd")
USUAL_SSH = Port(Protocol.TCP, 22)
_PROC = Path("/proc")
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
_USUAL_EPHEMERAL = range(32_768, 61_000)
_NOBODY = 0xFFFF_FFFF  # in loginuid: nobody has logged in
# What a UDP socket at these ports waits for are answers, which come in anyway.
_CLIENTS = frozenset({Port(Protocol.UDP, 68), Port(Protocol.UDP, 546)})


class Service(NamedTuple):
    """A port at which something listens, and what; `program` is empty where that cannot be read."""

    port: Port
    program: str


class HostSurvey(NamedTuple):
    """What is known of this host; `services` are those that others reach, `taken` all ports in use."""

    services: tuple[Service, ...]
    taken: frozenset[Port]
    ephemeral: range
    session: SshConnection | None
    network: Network

    def ssh(self) -> tuple[Port, ...]:
        """Give the ports of SSH: the session's first, then others of the same program; nothing where there is none."""
        session = self.session.destination_port if self.session is not None else 0
        found = [
            each.port
            for each in self.services
            if each.port.protocol is Protocol.TCP
            and (each.port.number == session or each.program.startswith(SSH_PROGRAMS))
        ]
        if not found:
            found = [each.port for each in self.services if each.port == USUAL_SSH]
        return tuple(sorted(found, key=lambda port: (port.number != session, port)))

    def address(self) -> Address | None:
        """Give the address that clients most likely reach: the session's, or one where the default route leaves."""
        if self.session is not None and self.network.interface_of(self.session.destination) is not None:
            return self.session.destination
        outward = [route.interface for route in self.network.routes if route.network == ip_network("0.0.0.0/0")]
        outward += [route.interface for route in self.network.routes if route.network == ip_network("::/0")]
        there = [
            local
            for local in self.network.locals
            if not (local.address.is_loopback or local.address.is_link_local or local.interface == "lo")
        ]
        there.sort(
            key=lambda local: (not local.address.is_global, local.interface not in outward, local.address.version)
        )
        return there[0].address.ip if there else None


def survey_host() -> HostSurvey:
    """Look at the host, in the network namespace of the caller. HostError: the kernel does not say."""
    ephemeral = _ephemeral()
    outer, every = list(listeners()), list(listeners(loopback=True))
    programs = _programs({each.inode for each in outer})
    found: dict[Port, str] = {}
    for each in outer:
        if not _is_passing(each.port, ephemeral):
            found[each.port] = found.get(each.port) or programs.get(each.inode, "")
    try:
        network = read_network()
    except OSError as error:
        raise HostError(f"the kernel does not tell this host's addresses: {error.strerror}") from None
    services = tuple(Service(port, program) for port, program in sorted(found.items()))
    return HostSurvey(services, frozenset(each.port for each in every), ephemeral, ssh_connection(), network)


def key_files(proc: Path = _PROC) -> Iterator[Path]:
    """Give the files of SSH keys that are most likely the operator's: of who logged in, then of who this is."""
    homes: list[Path] = []
    for user in (os.environ.get("SUDO_UID", ""), _login_user(proc)):
        with suppress(KeyError):
            if user.isdecimal() and len(user) <= 10:
                homes.append(Path(pwd.getpwuid(int(user)).pw_dir))
    with suppress(RuntimeError):  # no HOME, and no such user
        homes.append(Path.home())
    yield from dict.fromkeys(home / ".ssh/authorized_keys" for home in homes)


def host_name() -> str:
    """Give this host's short name, to call it by on clients."""
    name = socket.gethostname().partition(".")[0]
    return name if name.isprintable() and name and name != "localhost" else "server"


def _is_passing(port: Port, ephemeral: range) -> bool:
    """Tell whether a UDP port is of a client that waits for answers, such as a resolver, and no service."""
    return port in _CLIENTS or (port.protocol is Protocol.UDP and port.number in ephemeral)


def _ephemeral() -> range:
    try:
        first, last = map(int, _EPHEMERAL.read_text().split())
    except (OSError, ValueError):
        return _USUAL_EPHEMERAL
    return range(first, last + 1)


def _login_user(proc: Path) -> str:
    """Give the number of the user who logged in, whatever `su` made of him since (pam_loginuid(8))."""
    try:
        user = (proc / "self/loginuid").read_text().strip()
    except OSError:
        return ""
    return "" if user == str(_NOBODY) else user


def _programs(inodes: set[int]) -> dict[int, str]:
    """Name the programs that have these sockets; one that systemd holds for another is called systemd."""
    found: dict[int, str] = {}
    for process in _PROC.glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile, or is another user's
            for handle in (process / "fd").iterdir():
                inode = _socket_of(handle)
                if inode in inodes:
                    found[inode] = (process / "comm").read_text().strip()
    return found


def _socket_of(handle: Path) -> int:
    with suppress(OSError):
        kind, _, number = os.readlink(handle).partition(":[")  # noqa: PTH115 (no path, but socket:[INODE])
        if kind == "socket" and number[:-1].isdecimal():
            return int(number[:-1])
    return 0
