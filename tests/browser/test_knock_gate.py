"""The page of `doorward share --page` in a real browser, and the real gate on another host."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from doorward.lab.namespace import NamespaceHost
from doorward.lab.topology import Lab
from doorward.model import Address
from tests.support.browser import Browser
from tests.support.daemon import RunningDaemon, running_daemon
from tests.support.signed import Signed

pytestmark = pytest.mark.netns("nft")

CONFIG = """
[gate]
name = "home"
mode = "stealth"
[signed]
browser = {browser}
confirm = {confirm}
[doors.ssh]
opens = ["22/tcp"]
"""
# The first packet of all is within the limit, hence dropped; the others are not.
LOSES = "udp {} 62201 limit rate 1/day burst 1 packets drop"


class Site:
    """A gate, and a page whose key it lists."""

    def __init__(self, lab: Lab, folder: Path, browser: Browser) -> None:
        self.lab, self.folder, self.browser = lab, folder, browser
        self.files = Signed(folder / "configuration")

    @contextmanager
    def running(self, *, browser: str = "true", confirm: str = "true") -> Iterator[RunningDaemon]:
        with running_daemon(self.lab.server, self.folder, CONFIG.format(browser=browser, confirm=confirm)) as daemon:
            daemon.message("accepting signed knocks")
            yield daemon

    def open_page(self, daemon: RunningDaemon, *addresses: Address) -> str:
        """Open a page for these addresses; return its key's name."""
        (self.folder / "knock.html").write_text(daemon.run("share", "--page", "ssh", "--host", *addresses).stdout)
        self.browser.open(f"file://{self.folder / 'knock.html'}")
        line = self.browser.evaluate("doorward.line()")
        self.files.authorize(line)
        daemon.message("accepting signed knocks")
        return str(line.split()[2])

    def knock(self) -> str:
        return str(self.browser.evaluate("doorward.knock('ssh')"))


@pytest.fixture
def site(direct_lab: Lab, tmp_path: Path) -> Iterator[Site]:
    with Browser(tmp_path / "profile", direct_lab.client) as browser:
        yield Site(direct_lab, tmp_path, browser)


def gets_in(client: NamespaceHost, to: Address) -> bool:
    def go() -> bool:
        try:
            socket.create_connection((str(to), 22), 0.5).close()
        except OSError:
            return False
        return True

    return client.call(go)


def test_page_opens_and_closes_a_door(site: Site) -> None:
    """By IPv4, by IPv6 and by both; what the page shows is what the gate has done."""
    server, client = site.lab.server, site.lab.client
    listeners = [
        server.call(socket.create_server, ("", 22), family=family) for family in (socket.AF_INET, socket.AF_INET6)
    ]
    with site.running() as daemon:
        for addresses in ((server.ipv4,), (server.ipv6,), (server.ipv4, server.ipv6)):
            name = site.open_page(daemon, *addresses)
            assert not any(gets_in(client, address) for address in addresses)
            assert site.knock() == "confirmed"
            opened = daemon.event("opened", by=f"key {name} (browser)")["address"]
            assert opened in {str(client.ipv4), str(client.ipv6)}
            assert any(gets_in(client, address) for address in addresses)
            assert site.browser.evaluate("doorward.close('ssh')") == "confirmed"
            daemon.event("closed", address=opened)
            assert not gets_in(client, addresses[0])
        assert not [each for each in daemon.events() if each["event"] == "refused"]
    for listener in listeners:
        listener.close()


@pytest.mark.parametrize("lost", ["dport", "sport"])
def test_the_first_packet_or_the_first_answer_is_lost(site: Site, lost: str) -> None:
    host = site.lab.server if lost == "dport" else site.lab.client
    with site.running() as daemon:
        site.open_page(daemon, site.lab.server.ipv4)
        rule = LOSES.format(lost)
        host.run(["nft", f"table inet lost {{ chain lost {{ type filter hook prerouting priority -400; {rule}; }}; }}"])
        assert site.knock() == "confirmed"
        daemon.event("opened", address=str(site.lab.client.ipv4))


def test_a_gate_that_does_not_confirm_and_one_that_takes_no_browsers(site: Site) -> None:
    with site.running(confirm="false") as daemon:
        site.open_page(daemon, site.lab.server.ipv4)
        assert site.knock() == "silent"
        daemon.event("opened", address=str(site.lab.client.ipv4))
        daemon.reload(CONFIG.format(browser="false", confirm="true"))
        before = len(daemon.ask("status")["openings"])
        assert site.knock() == "silent"
        assert len(daemon.ask("status")["openings"]) == before
        assert daemon.counters()["signed_length"] > 0
