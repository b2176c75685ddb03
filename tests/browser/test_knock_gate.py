"""The page of `doorward share --page` in a real browser, and the real gate on another host.

`scripts/test` runs it in Chromium, `scripts/firefox` in Firefox.
"""

from __future__ import annotations

import shlex
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from doorward.lab.topology import Lab
from doorward.model import Address
from tests.support import ssh_keygen
from tests.support.authority import Authority
from tests.support.browser import Browser
from tests.support.daemon import RunningDaemon, running_daemon
from tests.support.firefox import Firefox
from tests.support.page_site import page_site
from tests.support.signed import Signed
from tests.support.sshd import SSH, running_sshd

pytestmark = pytest.mark.netns("nft", "ssh", "/usr/sbin/sshd")

CONFIG = """
[gate]
name = "{name}"
mode = "stealth"
[signed]
browser = {browser}
confirm = {confirm}
[doors.ssh]
opens = ["22/tcp"]
"""
# The first packet of all is within the limit, hence dropped; the others are not.
LOSES = "udp {} 62201 limit rate 1/day burst 1 packets drop"
STATE = "document.querySelector('[role=status]').textContent"
COMMAND = "[...document.querySelectorAll('code')].at(-1).textContent"  # for the operator
Kind = type[Browser | Firefox]


def config(*, name: str = "home", browser: str = "true", confirm: str = "true") -> str:
    return CONFIG.format(name=name, browser=browser, confirm=confirm)


class Site:
    """A gate, and a browser on another host."""

    def __init__(self, lab: Lab, folder: Path, kind: Kind) -> None:
        self.lab, self.folder, self.kind = lab, folder, kind
        self.files = Signed(folder / "configuration")
        self.page = folder / "www" / "knock.html"
        self.page.parent.mkdir()

    @contextmanager
    def started(self) -> Iterator[None]:
        """Run the browser until the end of the block."""
        with self.kind(self.folder / "profile", self.lab.client) as self.browser:
            yield

    @contextmanager
    def running(self, text: str) -> Iterator[RunningDaemon]:
        """Run the gate until the end of the block."""
        with running_daemon(self.lab.server, self.folder, text) as daemon:
            daemon.message("accepting signed knocks")
            yield daemon

    def share(self, daemon: RunningDaemon, *words: object) -> None:
        """Write the page."""
        self.page.write_text(daemon.run("share", "--page", "ssh", "--host", *words).stdout)

    def open(self, address: str = "") -> str:
        """Open the page, from the file or from a site; return its key's line."""
        self.browser.open(address or f"file://{self.page}")
        return str(self.browser.evaluate("doorward.line()"))

    def open_allowed(self, daemon: RunningDaemon, address: str = "") -> str:
        """Open the page, and list its key alone; return the key's name."""
        line = self.open(address)
        self.files.authorize(line)
        daemon.message("accepting signed knocks")
        return line.split()[2]

    @staticmethod
    def rejections(daemon: RunningDaemon) -> dict[str, int]:
        """Return how many packets the gate has rejected, by reason."""
        counts: dict[str, int] = daemon.ask("status")["signed"]["refused"]
        return counts

    def knock(self) -> str:
        return str(self.browser.evaluate("doorward.knock('ssh')"))

    def shown(self) -> str:
        return str(self.browser.evaluate(STATE))

    def source(self, to: Address) -> Address:
        client = self.lab.client
        return client.ipv4 if to.version == 4 else client.ipv6

    def is_silent(self, to: Address) -> bool:
        def go() -> bool:
            try:
                socket.create_connection((str(to), 22), 0.5).close()
            except TimeoutError:
                return True
            return False

        return self.lab.client.call(go)

    def ssh(self, to: Address) -> str:
        """Return what a command over ssh prints."""
        options = ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "BatchMode=yes")
        words = [word for option in options for word in ("-o", option)]
        command = [SSH, "-F", "none", "-i", ssh_keygen.key("ed25519"), *words, f"root@{to}", "echo $((6 * 7))"]
        return self.lab.client.run(command, check=False).stdout


@pytest.fixture(params=[Browser, pytest.param(Firefox, marks=pytest.mark.firefox)])
def site(request: pytest.FixtureRequest, lab: Lab, tmp_path: Path) -> Site:
    return Site(lab, tmp_path, request.param)


def opens_and_closes(site: Site, daemon: RunningDaemon, addresses: tuple[Address, ...]) -> None:
    """Knock and close on the page that is open; what it shows is what the gate has done."""
    assert site.knock() == "confirmed"
    assert site.shown() == "Open"
    for address in addresses:
        opened = daemon.event("opened", address=str(site.source(address)))
        assert opened["by"].endswith("(browser)")
        assert site.ssh(address) == "42\n"
    assert site.browser.evaluate("doorward.close('ssh')") == "confirmed"
    assert site.shown() == "Closed"
    for address in addresses:
        daemon.event("closed", address=str(site.source(address)))
        assert site.is_silent(address)


def test_page_opens_and_closes_a_door(site: Site) -> None:
    """From a file by IPv4, by IPv6 and by both; and by both over https and without the site."""
    server, client = site.lab.server, site.lab.client
    certificate = Authority(site.folder, address=str(client.ipv4)).issue("site")
    sshd = running_sshd(server, site.folder / "sshd", [ssh_keygen.public_line(ssh_keygen.key("ed25519"))])
    with site.started(), sshd, site.running(config()) as daemon:
        site.page.with_name("knock-worker.js").write_text(daemon.run("share", "--worker").stdout)
        assert site.is_silent(server.ipv4)
        for addresses in ((server.ipv4,), (server.ipv6,), (server.ipv4, server.ipv6)):
            site.share(daemon, *addresses)
            site.open_allowed(daemon)
            opens_and_closes(site, daemon, addresses)
        with page_site(client, site.page, str(client.ipv4), certificate=certificate) as address:
            site.open_allowed(daemon, address)
            opens_and_closes(site, daemon, addresses)
            site.browser.evaluate("navigator.serviceWorker.ready.then(() => null)")
            site.browser.until("caches.match(location.href)")  # the worker is fetching it
        site.open(address)
        opens_and_closes(site, daemon, addresses)
        assert not [each for each in daemon.events() if each["event"] == "refused"]


def test_key_outlives_the_browser_until_it_is_revoked(site: Site) -> None:
    with site.running(config()) as daemon:
        site.share(daemon, site.lab.server.ipv4)
        with site.started():
            line = site.open()
            program, *words = shlex.split(site.browser.evaluate(COMMAND))
            assert (program, words) == ("doorward", ["allow", line, "--doors", "ssh", "--for-max", "30s"])
            daemon.run(*words)
            daemon.message("accepting signed knocks")
        with site.started():
            assert site.open() == line
            assert site.knock() == "confirmed"
            daemon.event("opened", address=str(site.lab.client.ipv4))
            daemon.run("revoke", line.split()[2])
            daemon.message("accepting signed knocks")
            assert site.knock() == "silent"
            assert "by browser: " in daemon.event("refused", address=str(site.lab.client.ipv4))["reason"]


@pytest.mark.parametrize("lost", ["dport", "sport"])
def test_the_first_packet_or_the_first_answer_is_lost(site: Site, lost: str) -> None:
    host = site.lab.server if lost == "dport" else site.lab.client
    with site.started(), site.running(config()) as daemon:
        site.share(daemon, site.lab.server.ipv4)
        site.open_allowed(daemon)
        rule = LOSES.format(lost)
        host.run(["nft", f"table inet lost {{ chain lost {{ type filter hook prerouting priority -400; {rule}; }}; }}"])
        assert site.knock() == "confirmed"
        daemon.event("opened", address=str(site.lab.client.ipv4))


def test_a_gate_that_does_not_confirm_and_one_that_takes_no_browsers(site: Site) -> None:
    with site.started(), site.running(config(confirm="false")) as daemon:
        site.share(daemon, site.lab.server.ipv4)
        site.open_allowed(daemon)
        assert site.knock() == "silent"
        daemon.event("opened", address=str(site.lab.client.ipv4))
        daemon.reload(config(browser="false"))
        before = len(daemon.openings())
        began_s = time.monotonic()
        assert site.knock() == "silent"
        assert time.monotonic() - began_s >= 2
        assert site.shown() == "Knocked"
        assert "Nothing answered" in site.browser.evaluate("document.querySelector('section p').textContent")
        assert len(daemon.openings()) == before
        assert daemon.counters()["signed_length"] > 0


def test_pages_of_another_gate_open_nothing(site: Site) -> None:
    """One with another server's key, and one with this server's key but of another gate."""
    other = site.folder / "other" / "doorward.toml"
    Signed(other.parent)
    renamed = site.files.keys_file.with_name("renamed.toml")
    other.write_text(config())
    renamed.write_text(config(name="office"))
    with site.started(), site.running(config()) as daemon:
        for path, reason in ((other, "check"), (renamed, "door")):
            site.share(daemon, site.lab.server.ipv4, "-c", path)
            site.open_allowed(daemon)
            assert site.knock() == "silent"
            assert site.rejections(daemon).keys() == {"check", reason}
        assert "of another gate" in daemon.event("refused", address=str(site.lab.client.ipv4))["reason"]
        assert daemon.openings() == []
