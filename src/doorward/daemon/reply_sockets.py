"""The sockets from which signed knocks are confirmed: they send, and receive nothing (kernel/send_only.py).

`doorward run` opens them before it drops its rights, since ports below 1024 need CAP_NET_BIND_SERVICE.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Collection
from contextlib import ExitStack, suppress
from pathlib import Path

from doorward.config.files import read_text
from doorward.config.toml import parse
from doorward.daemon.last_good import path_of
from doorward.errors import DoorwardError, HostError
from doorward.kernel.send_only import open_send_only
from doorward.model import Port, Protocol

_FAMILIES = socket.AF_INET, socket.AF_INET6


class ReplySockets:
    """A socket that only sends for each port for signed knocks and IP version. Ports below 1024 need root to open."""

    def __init__(self) -> None:
        self._sockets: dict[Port, list[socket.socket]] = {}
        self.not_open: dict[Port, str] = {}  # why

    def open(self, ports: Collection[Port]) -> None:
        """Open these ports, as far as they are not, and close all others."""
        for port in self._sockets.keys() - set(ports):
            for sender in self._sockets.pop(port):
                sender.close()
        self.not_open = {}
        for port in ports:
            if port not in self._sockets:
                try:
                    self._sockets[port] = _open(port)
                except (OSError, HostError) as error:
                    self.not_open[port] = getattr(error, "strerror", None) or str(error)

    @property
    def ports(self) -> frozenset[Port]:
        """Return the open ports. No other program can bind them."""
        return frozenset(self._sockets)

    def sender(self, port: int, version: int) -> socket.socket | None:
        """Return the socket of a port; None if it is not open, or not for this IP version."""
        family = _FAMILIES[version == 6]
        sockets = self._sockets.get(Port(Protocol.UDP, port), [])
        return next((sender for sender in sockets if sender.family == family), None)


def _open(port: Port) -> list[socket.socket]:
    """Open a port for both IP versions, or only for IPv4 where the kernel has no IPv6."""
    families = _FAMILIES if os.path.exists("/proc/net/if_inet6") else _FAMILIES[:1]  # noqa: PTH110
    with ExitStack() as opened:
        sockets = [opened.enter_context(open_send_only(family, port.number)) for family in families]
        opened.pop_all()
    return sockets


def open_early(config: Path) -> ReplySockets:
    """Open the ports of a configuration file, or of its last good copy, with the rights that this process has.

    Faults are reported later, when the file is loaded.
    """
    sockets = ReplySockets()
    for path in (config, path_of(config)):
        with suppress(DoorwardError):
            text = read_text(path)
            if "confirm" in text:  # the doors alone may take seconds to read
                sockets.open(parse(text, str(path)).confirming_ports)
            break
    return sockets
