"""A small internet in network namespaces, for `doorward lab`, tests and benchmarks.

    client   192.0.2.2    2001:db8:1::2 --.
                                           router -- server  198.51.100.2  2001:db8:2::2
    stranger 203.0.113.2  2001:db8:3::2 --'

A direct lab has only a client (198.51.100.1, 2001:db8:2::1) and a server, on one wire.
"""

from __future__ import annotations

import atexit
import json
import os
import re
import secrets
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from types import FrameType, TracebackType
from typing import NamedTuple, Self

from doorward.errors import HostError
from doorward.lab.namespace import NamespaceHost, end_processes, ip

END_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class SignalGuard:
    """Between `install` and `restore` the first signal raises an exception, and later ones are ignored.

    Does nothing outside the main thread, which handlers never interrupt.
    """

    def __init__(self) -> None:
        self._is_deferring = False
        self._received: int | None = None
        self._handlers: list[tuple[int, signal._HANDLER]] = []

    def install(self) -> None:
        """Install the handlers; signals that the caller ignores stay ignored."""
        if threading.current_thread() is threading.main_thread():
            handlers = [(number, signal.getsignal(number)) for number in END_SIGNALS]
            self._handlers = [
                (number, handler) for number, handler in handlers if handler not in (signal.SIG_IGN, None)
            ]
            for number, _ in self._handlers:
                signal.signal(number, self._handle)

    def restore(self) -> None:
        """Restore the previous handlers."""
        for number, handler in self._handlers:
            signal.signal(number, handler)
        self._handlers = []

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Defer signals until the end of this block."""
        received_before, self._is_deferring = self._received, True
        try:
            yield
        finally:
            self._is_deferring = False
            if received_before is None and self._received is not None:
                self._deliver(self._received)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self._received is None:
            self._received = number
            if not self._is_deferring:
                self._deliver(number)

    def _deliver(self, number: int) -> None:
        handler = dict(self._handlers)[number]
        if handler is signal.SIG_DFL:  # which would end the process without cleanup
            raise SystemExit(128 + number)
        if callable(handler):
            handler(number, None)


_NAME = re.compile(r"doorward-[0-9]+-[0-9a-f]{6}")
LINK_PATIENCE_S = 10.0  # a new link is up within milliseconds, but asynchronously
HOST_SETTINGS = {
    "ipv4/conf/all/rp_filter": "0",  # many of the lab's source addresses are made up
    "ipv4/conf/default/rp_filter": "0",
    "ipv6/conf/default/disable_ipv6": "0",
    "ipv6/conf/all/accept_dad": "0",  # else each address waits a second for duplicate address detection
    "ipv6/conf/default/accept_dad": "0",
    "ipv6/conf/default/accept_ra": "0",
}
ROUTER_SETTINGS = {**HOST_SETTINGS, "ipv4/ip_forward": "1", "ipv6/conf/all/forwarding": "1"}


class WireNetworks(NamedTuple):
    """The two networks of one wire; station 1 is the gateway, station 2 the host."""

    number: int
    ipv4: IPv4Network
    ipv6: IPv6Network

    def station(self, namespace: str, interface: str, number: int) -> NamespaceHost:
        """Return the host at one end of this wire."""
        mac = f"02:00:00:00:{self.number:02x}:{number:02x}"
        return NamespaceHost(namespace, interface, self.ipv4[number], self.ipv6[number], mac)


CLIENT_NET = WireNetworks(1, IPv4Network("192.0.2.0/24"), IPv6Network("2001:db8:1::/64"))
SERVER_NET = WireNetworks(2, IPv4Network("198.51.100.0/24"), IPv6Network("2001:db8:2::/64"))
STRANGER_NET = WireNetworks(3, IPv4Network("203.0.113.0/24"), IPv6Network("2001:db8:3::/64"))


class Wire(NamedTuple):
    """Two hosts joined by a veth pair; `gateway` is the default route of `end`."""

    gateway: NamespaceHost
    end: NamespaceHost


class Lab:
    """A context manager: inside it the hosts exist and are reachable; afterwards nothing is left of them.

    HostError names the missing capability or package. A direct lab has no `router` and no `stranger`.
    """

    def __init__(self, *, direct: bool = False) -> None:
        self.name = f"doorward-{os.getpid()}-{secrets.token_hex(3)}"
        prefix = f"{self.name}-"
        gateways = [
            net.station(prefix + "router", name, 1)
            for name, net in (("client", CLIENT_NET), ("server", SERVER_NET), ("stranger", STRANGER_NET))
        ]
        self.router = gateways[1]
        self.server = SERVER_NET.station(prefix + "server", "eth0", 2)
        self.stranger = STRANGER_NET.station(prefix + "stranger", "eth0", 2)
        if direct:
            self.client = SERVER_NET.station(prefix + "client", "eth0", 1)
            self._wires = [Wire(self.client, self.server)]
            self.hosts = [self.client, self.server]
        else:
            self.client = CLIENT_NET.station(prefix + "client", "eth0", 2)
            self.hosts = [self.client, self.server, self.stranger, self.router]
            self._wires = [Wire(gateways[i], host) for i, host in enumerate(self.hosts[:3])]
        self._direct = direct
        self._owner_pid = os.getpid()
        self._signals = SignalGuard()
        self._is_kept = False

    def __enter__(self) -> Self:
        if os.geteuid() != 0:
            raise HostError("needs-root", "network namespaces need root; run this with sudo")
        atexit.register(self.close)  # for a signal between the end of the block and `__exit__`
        try:
            self._signals.install()
            with self._signals.deferred():
                self._build()
        except BaseException:  # remove a half-built lab, whatever interrupted it
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all processes of the lab and remove its namespaces; a second call does nothing."""
        if os.getpid() != self._owner_pid:
            return  # the lab belongs to the parent process
        try:
            with self._signals.deferred():
                if not self._is_kept:
                    _tear_down(self.hosts)
                atexit.unregister(self.close)
        finally:
            self._signals.restore()

    def keep(self) -> None:
        """Leave hosts and programs running at the end; `remove` removes them."""
        self._is_kept = True

    def _build(self) -> None:
        ip(batch=[f"netns add {host.namespace}" for host in self.hosts])
        for host in self.hosts:
            host.call(_write_sysctls, ROUTER_SETTINGS if host is self.router else HOST_SETTINGS)
        ip(batch=[_link_line(wire) for wire in self._wires])
        for wire in self._wires:
            wire.gateway.ip(batch=_address_lines(wire.gateway))
            wire.end.ip(batch=[*_address_lines(wire.end), *_default_lines(wire.gateway)])
        if not self._direct:  # route any made-up address back to the client
            self.router.ip(batch=_default_lines(self.client))
        _wait_for_links(self.hosts)


def remove(name: str) -> bool:
    """Remove a kept lab by its name; return False if it does not exist."""
    hosts = [
        net.station(f"{name}-{role}", "eth0", 2)
        for role, net in (
            ("client", CLIENT_NET),
            ("server", SERVER_NET),
            ("stranger", STRANGER_NET),
            ("router", SERVER_NET),
        )
    ]
    existing = [host for host in hosts if _NAME.fullmatch(name) and host.path.exists()]
    _tear_down(existing)
    return bool(existing)


def _tear_down(hosts: Sequence[NamespaceHost]) -> None:
    try:
        end_processes(hosts)
    finally:
        if lines := [f"netns delete {host.namespace}" for host in hosts if host.path.exists()]:
            ip("-force", batch=lines)  # a failure does not stop the other deletions


def _link_line(wire: Wire) -> str:
    (a, b) = wire
    return (
        f"link add {a.interface} netns {a.namespace} address {a.mac} type veth "
        f"peer name {b.interface} netns {b.namespace} address {b.mac}"
    )


def _address_lines(host: NamespaceHost) -> list[str]:
    return [
        "link set lo up",
        f"link set {host.interface} up",
        f"address add {host.ipv4}/24 dev {host.interface}",
        f"address add {host.ipv6}/64 dev {host.interface} nodad",
    ]


def _default_lines(gateway: NamespaceHost) -> list[str]:
    return [f"route add 0.0.0.0/0 via {gateway.ipv4}", f"route add ::/0 via {gateway.ipv6}"]


def _write_sysctls(settings: dict[str, str]) -> None:
    for name, value in settings.items():
        path = Path("/proc/sys/net", name)
        try:
            path.write_text(value)
        except OSError as error:
            raise HostError("unwritable-file", f"cannot write {path} in a namespace: {error.strerror}") from None


def _wait_for_links(hosts: Sequence[NamespaceHost]) -> None:
    deadline_s = time.monotonic() + LINK_PATIENCE_S
    for host in hosts:
        while any(link["operstate"] != "UP" for link in json.loads(host.ip("-j", "link", "show", "type", "veth"))):
            if time.monotonic() > deadline_s:
                raise HostError(
                    "links-down", f"the links of {host.namespace} did not come up in {LINK_PATIENCE_S:.0f} s"
                )
