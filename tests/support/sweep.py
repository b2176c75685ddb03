"""Namespaces that a test session leaves behind when a timeout or a kill interrupts it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from doorward.lab.namespace import NAMESPACES, NamespaceHost
from doorward.lab.topology import SERVER_NET, _tear_down

_HOST_FILES = Path("/etc/netns")  # what `ip netns exec` binds over /etc, one directory per namespace


def remove_labs_of(pid: int) -> None:
    """End what runs in the namespaces that the process `pid` made, and remove them with their files."""
    _tear_down(list(hosts_of(pid)))
    for directory in _HOST_FILES.glob(f"doorward-{pid}-*"):
        shutil.rmtree(directory)


def hosts_of(pid: int) -> Iterator[NamespaceHost]:
    """Yield the hosts that the process `pid` made and has not removed."""
    for path in sorted(NAMESPACES.glob(f"doorward-{pid}-*")):
        yield SERVER_NET.station(path.name, "eth0", 2)
