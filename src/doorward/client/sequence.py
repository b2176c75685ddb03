"""Send a port sequence: one packet per port, sent once, without privileges."""

from __future__ import annotations

import _socket as socket  # without its enumerations, which take half as long as a knock to build
import errno
import os
import time
from collections.abc import Callable

from doorward.errors import HostError, UsageError
from doorward.named_tuple import NamedTuple
from doorward.port import Port, Protocol

# Packets to different ports may be steered to different receive queues and be reordered there, and a sequence out of
# order opens nothing. 10 ms is longer than a queue delays a packet, and too short to notice.
DEFAULT_DELAY_S = 0.01
# What Debian's `knock` sends. Not empty: some routers and address translators drop empty datagrams.
DATAGRAM = b"\0"

# Errors that stem from an ICMP reply (Linux: icmp_err_convert, icmpv6_err_convert): the packet was sent.
ANSWERS = frozenset(
    {
        errno.ECONNREFUSED,
        errno.EHOSTUNREACH,
        errno.ENETUNREACH,
        errno.EHOSTDOWN,
        getattr(errno, "ENONET", 0),  # Linux
        errno.ENOPROTOOPT,
        errno.EOPNOTSUPP,
        errno.EMSGSIZE,
        errno.EACCES,
        errno.EPROTO,
    }
)
SENT = frozenset({0, errno.EINPROGRESS, getattr(errno, "WSAEWOULDBLOCK", 0)})  # the last one is Windows'


class UnreachableError(HostError):
    """No packet can be sent to any of the addresses."""


class Target(NamedTuple):
    """One address of a host, in the form of the socket calls."""

    family: int
    sockaddr: tuple[object, ...]

    def at(self, port: int) -> tuple[object, ...]:
        """Return the socket address of a port at this target."""
        return (self.sockaddr[0], port, *self.sockaddr[2:])

    def __str__(self) -> str:
        return str(self.sockaddr[0])


Report = Callable[[Target, int, Port], None]


def resolve(host: str, family: int = socket.AF_UNSPEC) -> list[Target]:
    """Resolve a host; return its addresses in the system's order of preference, at least one."""
    try:
        # Bytes keep Python from importing its IDNA codec (5 ms), which an ASCII name does not need.
        name = host.encode() if host.isascii() else host
        results = socket.getaddrinfo(name, None, family, socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise _resolve_error(host, family, error) from None
    except UnicodeError:  # a label too long or empty, or letters outside IDNA
        raise UsageError(
            "invalid-host-name", f"invalid host name {host!r}; use a name such as example.org, or an address"
        ) from None
    return [Target(int(family), sockaddr) for family, _, _, _, sockaddr in results]


def first_per_family(targets: list[Target]) -> list[Target]:
    """Return the first address of each family, in order of preference."""
    first: dict[int, Target] = {}
    for target in targets:
        first.setdefault(target.family, target)
    return list(first.values())


def targets_of_version(targets: list[Target], version: int) -> list[Target]:
    """Return the addresses of IP version 4 or 6; all of them if none has that version."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    return [target for target in targets if target.family == family] or targets


def _resolve_error(host: str, family: int, error: socket.gaierror) -> UsageError | HostError:
    if error.errno == socket.EAI_AGAIN:
        return HostError(
            "no-name-server", f"cannot look up {host!r}: no name server answers; try again, or use the address"
        )
    if family != socket.AF_UNSPEC:
        version, option = ("4", "-4") if family == socket.AF_INET else ("6", "-6")
        return UsageError(
            "no-address", f"{host!r} has no IPv{version} address, or is unknown; leave {option} out, or check the name"
        )
    return UsageError("unknown-host", f"unknown host {host!r}; check the name, or use the address")


def knock(
    targets: list[Target],
    sequence: tuple[Port, ...],
    delay_s: float = DEFAULT_DELAY_S,
    *,
    report: Report | None = None,
    sleep: Callable[[float], object] = time.sleep,
) -> Target:
    """Send the whole sequence to the first reachable target, and return that target.

    `report` is called after each packet is sent. UnreachableError: no packet could be sent; HostError: not all.
    """
    target = _send_first(targets, sequence[0])
    if report:
        report(target, 1, sequence[0])
    for position, port in enumerate(sequence[1:], 2):
        sleep(delay_s)
        fault = send(target, port)
        if fault not in SENT | ANSWERS:
            raise HostError(
                "send-failed", f"knock {position} of {len(sequence)} ({port}) was not sent: {send_error(target, fault)}"
            )
        if report:
            report(target, position, port)
    return target


def _send_first(targets: list[Target], port: Port) -> Target:
    """Send the first packet; an error cannot be a late reply to an earlier one, so the target is unreachable."""
    faults = []
    for target in targets:
        fault = send(target, port)
        if fault in SENT or fault == errno.ECONNREFUSED:
            return target
        faults.append(send_error(target, fault))
    raise UnreachableError("unreachable", "cannot knock: " + "; ".join(faults))


REMEDIES = {
    errno.ENETUNREACH: "check this host's network, or try the other of -4 and -6",
    errno.EHOSTUNREACH: "check this host's routes",
    errno.EADDRNOTAVAIL: "check this host's network, or try the other of -4 and -6",
    errno.EAFNOSUPPORT: "this host does not support that IP version",
    errno.EPERM: "dropped by this host's packet filter",
    errno.EACCES: "a broadcast address, or forbidden by this host's routes",
}


def send_error(target: Target, fault: int) -> str:
    """Return why no packet could be sent to the target, with a remedy."""
    remedy = REMEDIES.get(fault)
    return f"{target}: {os.strerror(fault)}" + (f" ({remedy})" if remedy else "")


def send(target: Target, port: Port) -> int:
    """Send one knock packet, never retransmitted; return the errno of a failure, or one of SENT.

    Each knock packet has its own socket: a new source port, so that conntrack sees a new connection, and no pending
    error of an earlier packet. Closing the socket before a reply keeps the kernel from retransmitting the SYN.
    """
    kind = socket.SOCK_STREAM if port.protocol is Protocol.TCP else socket.SOCK_DGRAM
    try:
        sock = socket.socket(target.family, kind)
        try:
            sock.setblocking(False)
            if kind == socket.SOCK_STREAM:
                return sock.connect_ex(target.at(port.number))
            sock.sendto(DATAGRAM, target.at(port.number))
        finally:
            sock.close()
    except OSError as error:
        return error.errno or errno.EIO
    return 0
