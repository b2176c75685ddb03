"""The lab's hidden service: `python -m doorward.lab.banner_server PORT` sends a banner, then echoes lines.

Prints `ready` once it listens on IPv4 and IPv6, and runs until a signal ends it.
"""

from __future__ import annotations

import socket
import socketserver
import sys
from contextlib import suppress
from ipaddress import IPv6Address

LINE_BYTES = 65536  # a longer line is echoed in pieces


class BannerHandler(socketserver.StreamRequestHandler):
    """One connection; the banner contains the client's address."""

    def handle(self) -> None:
        """Send the banner, then echo until the client closes."""
        address = IPv6Address(self.client_address[0])
        with suppress(ConnectionError):
            self.wfile.write(f"welcome, {address.ipv4_mapped or address}\n".encode())
            while line := self.rfile.readline(LINE_BYTES):
                self.wfile.write(line)


class BannerServer(socketserver.ThreadingTCPServer):
    """Listens on both families with one socket."""

    address_family = socket.AF_INET6
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 512  # hundreds of lab clients may connect at once

    def server_bind(self) -> None:
        """Accept IPv4 too, as mapped addresses."""
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


def main() -> None:
    """Serve the port given on the command line."""
    with BannerServer(("::", int(sys.argv[1])), BannerHandler) as greeter, suppress(KeyboardInterrupt):
        print("ready", flush=True)  # noqa: T201 (this is the interface)
        greeter.serve_forever()


if __name__ == "__main__":
    main()
