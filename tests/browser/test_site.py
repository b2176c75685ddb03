"""The site of the documentation in a real browser: it asks nobody else, complains of nothing, and fits a phone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.support.browser import Browser
from tests.support.documents import build_site

PAGES = ("index", "tutorial", "dev/design", "firewalls", "reference/commands", "configuration")
WIDTHS = {1280: False, 360: True}  # pixels, and whether it is a phone


class Quiet(SimpleHTTPRequestHandler):
    """Serves files, and says nothing of it."""

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder: Path = build_site(tmp_path_factory.mktemp("site"))
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("page", PAGES)
def test_a_page(browser: Browser, address: str, page: str, width: int) -> None:
    browser.look(width, "dark" if WIDTHS[width] else "light", phone=WIDTHS[width])
    browser.open(f"{address}/{page}.html")
    assert browser.evaluate("document.querySelector('article h1').innerText")
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    asked = browser.requests()
    assert len(asked) > 3
    assert [url for url in asked if not url.startswith((f"{address}/", "data:", "blob:"))] == []
    assert browser.complaints() == []
