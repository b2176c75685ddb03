"""systemd's notification protocol (sd_notify(3)): readiness, reloads, the watchdog."""

from __future__ import annotations

import contextlib
import os
import socket
import time


def notify(*lines: str) -> None:
    """Tell the service manager; without one, nothing happens."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if path[:1] not in ("/", "@"):
        return
    address = "\0" + path[1:] if path[0] == "@" else path
    kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC
    # A manager that went away is not the daemon's fault.
    with socket.socket(socket.AF_UNIX, kind) as sock, contextlib.suppress(OSError):
        sock.settimeout(1.0)  # one that does not read its messages may not stop the daemon
        sock.sendto("\n".join(lines).encode(), address)


def reloading() -> None:
    """Say that a reload began (Type=notify-reload wants the moment too)."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


def watchdog_interval_s() -> float | None:
    """Give how often to say that all is well: half of what the manager waits; None where it does not watch."""
    text, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", str(os.getpid()))
    if not text.isdecimal() or int(text) == 0 or pid != str(os.getpid()):
        return None
    return int(text) / 2_000_000
