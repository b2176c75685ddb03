"""systemd's notification protocol (sd_notify(3)): readiness, reloads, the watchdog."""

from __future__ import annotations

import contextlib
import os
import socket
import time


def notify(*lines: str) -> None:
    """Notify the service manager, if there is one."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if path[:1] not in ("/", "@"):
        return
    address = "\0" + path[1:] if path[0] == "@" else path
    kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC
    # A manager that has gone is not an error here.
    with socket.socket(socket.AF_UNIX, kind) as sock, contextlib.suppress(OSError):
        sock.settimeout(1.0)  # one that does not read its messages must not block the daemon
        sock.sendto("\n".join(lines).encode(), address)


def reloading() -> None:
    """Report that a reload began, with its time for Type=notify-reload."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


def watchdog_interval_s() -> float | None:
    """Return the interval for watchdog notifications, half of the manager's timeout; None without a watchdog."""
    text, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", str(os.getpid()))
    if not text.isdecimal() or int(text) == 0 or pid != str(os.getpid()):
        return None
    return int(text) / 2_000_000
