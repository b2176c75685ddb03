"""A site that serves the page of `doorward share --page` from a host of a lab, over http or https."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingTCPServer
from typing import Any

from doorward.lab.namespace import NamespaceHost


class _Server(ThreadingTCPServer):
    """An HTTP server that looks no name up, for which there is nobody to ask in a lab."""

    daemon_threads = True


class _Handler(SimpleHTTPRequestHandler):
    """Serves a directory with a clock that is ahead by `ahead_s`."""

    def __init__(self, ahead_s: float, *args: Any, **options: Any) -> None:
        self.ahead_s = ahead_s
        super().__init__(*args, **options)

    def date_time_string(self, timestamp: float | None = None) -> str:
        return super().date_time_string(int(time.time() + self.ahead_s if timestamp is None else timestamp))

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def page_site(
    host: NamespaceHost,
    page: Path,
    address: str = "127.0.0.1",
    *,
    ahead_s: float = 0.0,
    certificate: tuple[Path, Path] | None = None,
) -> Iterator[str]:
    """Serve a page and what lies beside it; inside, its address. With a certificate and its key, over https."""
    handler = partial(_Handler, ahead_s, directory=str(page.parent))
    server = host.call(_Server, (address, 0), handler)
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        # Browsers connect before they have anything to send: each thread waits for its own.
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        name = "localhost" if address == "127.0.0.1" else address
        yield f"{'https' if certificate else 'http'}://{name}:{server.server_address[1]}/{page.name}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
