"""The lab's hidden service: `python -m doorward.lab.banner_server PORT` sends a banner, then echoes lines.

Prints `ready` once it listens on IPv4 and IPv6, and runs until a signal ends it. It imports little, since labs start
many.
"""

from __future__ import annotations

import socket
import sys
import threading

LINE_BYTES = 65536  # a longer line is echoed in pieces
_BACKLOG = 512  # hundreds of lab clients may connect at once


def _serve(connection: socket.socket, client: str) -> None:
    """Send the banner, which contains the client's address, then echo until the client closes."""
    try:
        with connection, connection.makefile("rb") as lines:
            connection.sendall(f"welcome, {client.removeprefix('::ffff:')}\n".encode())
            while line := lines.readline(LINE_BYTES):
                connection.sendall(line)
    except ConnectionError:
        pass


def main() -> None:
    """Serve the port given on the command line."""
    port = int(sys.argv[1])
    try:
        with socket.create_server(("", port), family=socket.AF_INET6, backlog=_BACKLOG, dualstack_ipv6=True) as server:
            print("ready", flush=True)  # noqa: T201 (this is the interface)
            while True:
                connection, client = server.accept()
                threading.Thread(target=_serve, args=(connection, client[0]), daemon=True).start()
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
