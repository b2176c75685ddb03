"""Send lines to /dev/log as syslog(3) does, but without waiting indefinitely for a reader."""

from __future__ import annotations

import socket
import time

LOG_SOCKET = "/dev/log"
WAIT_S = 0.05  # for room in the reader's queue, ten lines by default
BACKOFF_S = 5.0  # after a timeout, how long lines are sent without waiting: no log may delay a door
_DAEMON, _NOTICE = 3 << 3, 5  # facility and severity, RFC 5424, 6.2.1


class Syslog:
    """Sends lines under a program's name. A line without room in the queue in time is lost."""

    def __init__(self, program: str) -> None:
        self._program = program
        self._socket: socket.socket | None = None
        self._backoff_until_s = 0.0

    def write(self, line: str) -> None:
        """Send one line; reconnect if the log daemon was restarted."""
        message = f"<{_DAEMON | _NOTICE}>{time.strftime('%b %e %H:%M:%S')} {self._program}: {line}".encode()
        for _ in range(2):
            try:
                self._send(message)
            except (BlockingIOError, TimeoutError):
                self._backoff_until_s = time.monotonic() + BACKOFF_S
                return
            except OSError:
                self.close()
            else:
                return

    def close(self) -> None:
        """Close the socket; the next line opens another."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, message: bytes) -> None:
        if self._socket is None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.connect(LOG_SOCKET)
        self._socket.settimeout(WAIT_S if time.monotonic() >= self._backoff_until_s else 0)
        self._socket.send(message)
