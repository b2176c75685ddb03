"""Survey the host for `doorward init`: listening services, the operator's SSH port, the host's address."""

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
from doorward.kernel.sock_diag import Connection, listeners
from doorward.kernel.ssh_session import ssh_connection
from doorward.model import Address, Port, Protocol

SSH_PROGRAMS = ("sshd", "dropbear", "tinysshd")
DEFAULT_SSH = Port(Protocol.TCP, 22)
_PROC = Path("/proc")
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
_DEFAULT_EPHEMERAL = range(32_768, 61_000)
_NO_LOGIN = 0xFFFF_FFFF  # in loginuid: no login
# UDP sockets on these ports wait for replies, which are accepted anyway.
_CLIENT_PORTS = frozenset({Port(Protocol.UDP, 68), Port(Protocol.UDP, 546)})


class Service(NamedTuple):
    """A listening port and its program, which is empty if it cannot be read."""

    port: Port
    program: str


class HostSurvey(NamedTuple):
    """Facts about this host; `services` are reachable from outside, `taken` are all ports in use."""

    services: tuple[Service, ...]
    taken: frozenset[Port]
    ephemeral: range
    session: Connection | None
    network: Network

    def ssh_ports(self) -> tuple[Port, ...]:
        """Return the ports of SSH, the session's first; empty if there are none."""
        session = self.session.destination_port if self.session is not None else 0
        ports = [
            service.port
            for service in self.services
            if service.port.protocol is Protocol.TCP
            and (service.port.number == session or service.program.startswith(SSH_PROGRAMS))
        ]
        if not ports:
            ports = [service.port for service in self.services if service.port == DEFAULT_SSH]
        return tuple(sorted(ports, key=lambda port: (port.number != session, port)))

    def address(self) -> Address | None:
        """Return the address that clients most likely use: the session's, or one on the default route's interface."""
        if self.session is not None and self.network.interface_with(self.session.destination) is not None:
            return self.session.destination
        outward = [route.interface for route in self.network.routes if route.network == ip_network("0.0.0.0/0")]
        outward += [route.interface for route in self.network.routes if route.network == ip_network("::/0")]
        candidates = [local for local in self.network.locals if local.is_external]
        candidates.sort(
            key=lambda local: (not local.address.is_global, local.interface not in outward, local.address.version)
        )
        return candidates[0].address.ip if candidates else None


def survey_host() -> HostSurvey:
    """Return the facts about the host, in the caller's network namespace. HostError: the kernel refuses."""
    ephemeral = _ephemeral()
    external, with_loopback = list(listeners()), list(listeners(loopback=True))
    programs = _programs({listener.inode for listener in external})
    services_by_port: dict[Port, str] = {}
    for listener in external:
        if not _is_client_port(listener.port, ephemeral):
            services_by_port[listener.port] = services_by_port.get(listener.port) or programs.get(listener.inode, "")
    try:
        network = read_network()
    except OSError as error:
        raise HostError("no-addresses", f"cannot read this host's addresses: {error.strerror}") from None
    services = tuple(Service(port, program) for port, program in sorted(services_by_port.items()))
    return HostSurvey(
        services, frozenset(listener.port for listener in with_loopback), ephemeral, ssh_connection(), network
    )


def key_files(proc: Path = _PROC) -> Iterator[Path]:
    """Yield the authorized_keys most likely to be the operator's: the login user's, then the current user's."""
    homes: list[Path] = []
    for user in (os.environ.get("SUDO_UID", ""), _login_user(proc)):
        with suppress(KeyError):
            if user.isdecimal() and len(user) <= 10:
                homes.append(Path(pwd.getpwuid(int(user)).pw_dir))
    with suppress(RuntimeError):  # no HOME and unknown user
        homes.append(Path.home())
    yield from dict.fromkeys(home / ".ssh/authorized_keys" for home in homes)


def host_name() -> str:
    """Return this host's short name, for use on clients."""
    name = socket.gethostname().partition(".")[0]
    return name if name.isprintable() and name and name != "localhost" else "server"


def _is_client_port(port: Port, ephemeral: range) -> bool:
    """Return whether a UDP port belongs to a client that waits for answers, such as a resolver."""
    return port in _CLIENT_PORTS or (port.protocol is Protocol.UDP and port.number in ephemeral)


def _ephemeral() -> range:
    try:
        first, last = map(int, _EPHEMERAL.read_text().split())
    except (OSError, ValueError):
        return _DEFAULT_EPHEMERAL
    return range(first, last + 1)


def _login_user(proc: Path) -> str:
    """Return the UID of the login user, which `su` does not change (pam_loginuid(8))."""
    try:
        user = (proc / "self/loginuid").read_text().strip()
    except OSError:
        return ""
    return "" if user == str(_NO_LOGIN) else user


def _programs(inodes: set[int]) -> dict[int, str]:
    """Return the programs that have these sockets, by inode; a socket of socket activation belongs to systemd."""
    programs: dict[int, str] = {}
    for process in _PROC.glob("[0-9]*"):
        with suppress(OSError):  # the process ended meanwhile, or belongs to another user
            for handle in (process / "fd").iterdir():
                inode = _socket_inode(handle)
                if inode in inodes:
                    programs[inode] = (process / "comm").read_text().strip()
    return programs


def _socket_inode(handle: Path) -> int:
    with suppress(OSError):
        kind, _, number = os.readlink(handle).partition(":[")  # noqa: PTH115 (no path, but socket:[INODE])
        if kind == "socket" and number[:-1].isdecimal():
            return int(number[:-1])
    return 0
