"""Whether this host forwards packets, and tracks connections, for the ports of hosts behind it."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

SYSCTLS = {4: "net.ipv4.ip_forward", 6: "net.ipv6.conf.all.forwarding"}  # by address family


def is_forwarding(version: int) -> bool:
    """Return whether some interface forwards packets of an address family."""
    for path in Path(f"/proc/sys/net/ipv{version}/conf").glob("*/forwarding"):
        with suppress(OSError):  # of an interface that has just gone
            if path.read_text().strip() != "0":
                return True
    return False


def is_tracking() -> bool:
    """Return whether conntrack knows any connection: it is active only where some ruleset needs it."""
    with suppress(OSError):  # of a module that is not loaded
        return Path("/proc/sys/net/netfilter/nf_conntrack_count").read_text().strip() != "0"
    return False
