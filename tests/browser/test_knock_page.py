"""The page of `doorward share --page` in a real browser, which knocks at a gate on another host of a lab.

`PICTURES=write pytest tests/browser/test_knock_page.py` updates docs/pictures/knock-phone-light.png.
"""

from __future__ import annotations

import json
import os
import struct
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from doorward.cli.main import main
from doorward.lab.topology import Lab
from doorward.signed.authorize import KnockRejection, ValidKnock
from tests.support.browser import Browser
from tests.support.browser_gate import BrowserGate
from tests.support.page_site import page_site
from tests.support.signed import Signed

pytestmark = pytest.mark.netns
PICTURES = Path(__file__).parents[2] / "docs" / "pictures"
LINK = "ssh://alice@192.0.2.7"
TOO_WIDE = """
[...document.querySelectorAll("body *")].filter(each => {
  const place = each.getBoundingClientRect();
  return place.right > innerWidth + 0.5 || place.left < -0.5;
}).map(each => each.outerHTML.slice(0, 80))
"""
STATE = "document.querySelector('[aria-labelledby=door-{}] [role=status]').textContent"
STORED_KEY = """
new Promise(resolve => indexedDB.open("doorward").onsuccess = ({target}) =>
  target.result.transaction("keys").objectStore("keys").get("key").onsuccess = ({target}) => resolve(target.result))
.then(({name, pair: {privateKey: {extractable, usages}}}) => ({name, extractable, usages}))
"""
RENAMED = """
new Promise(resolve => indexedDB.open("doorward").onsuccess = ({target}) => {
  const transaction = target.result.transaction("keys", "readwrite"), store = transaction.objectStore("keys");
  store.get("key").onsuccess = ({target}) => store.put({...target.result, name: "'$(id)'"}, "key");
  transaction.oncomplete = () => resolve(null);
})
"""
ANSWERED = """
globalThis.answered = new Promise(resolve => {
  const send = fetch;
  globalThis.fetch = (...words) => {
    const answer = send(...words);
    resolve(answer);
    return answer;
  };
});"""
LOOKS = {
    f"{name}-{scheme}": (width, scheme)
    for name, width in (("wide", 1280), ("phone", 390))
    for scheme in ("light", "dark")
}


class Page(NamedTuple):
    """A page in a browser of the client, and the gate that it knocks at."""

    browser: Browser
    gate: BrowserGate
    address: str
    lab: Lab

    def state(self, door: str = "ssh") -> str:
        state: str = self.browser.evaluate(STATE.format(door))
        return state

    def knock(self, door: str = "ssh") -> str:
        result: str = self.browser.evaluate(f"doorward.knock('{door}')")
        return result


def shared(folder: Path, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["share", "--page", *words, "-c", str(folder / "doorward.toml")]) == 0
    return capsys.readouterr().out


@pytest.fixture(scope="module")
def opened(module_lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Browser, BrowserGate, Path]]:
    folder = tmp_path_factory.mktemp("page")
    (folder / "doorward.toml").write_text(
        '[gate]\nname = "home"\n[signed]\nport = ["443/udp", "62201/udp"]\n[doors.ssh]\nopens = ["22/tcp"]\n'
        '[doors.wiki]\nopens = ["443/tcp"]\nfor = "10m"\n'
    )
    server = Signed(folder).server
    with ExitStack() as stack:
        gate = stack.enter_context(BrowserGate(module_lab.server, server, "home"))
        yield stack.enter_context(Browser(folder / "profile", module_lab.client)), gate, folder


@pytest.fixture
def page(
    opened: tuple[Browser, BrowserGate, Path], module_lab: Lab, capsys: pytest.CaptureFixture[str]
) -> Iterator[Page]:
    """The page, whose key may open both doors; nothing on it has been touched."""
    browser, gate, folder = opened
    server = module_lab.server
    addresses = ("--host", str(server.ipv4), str(server.ipv6))
    text = shared(folder, capsys, "ssh", "wiki", *addresses, "--link", f"ssh={LINK}", "--title", "Home server")
    (folder / "knock.html").write_text(text)
    address = f"file://{folder / 'knock.html'}"
    browser.look(390, "light", phone=True)
    browser.open(address)
    gate.authorize(browser.evaluate("doorward.line()"))
    gate.confirms, gate.loses = True, 0
    yield Page(browser, gate, address, module_lab)
    gate.verdicts()
    assert gate.malformed == []


def test_knock_is_confirmed_and_the_door_closes(page: Page) -> None:
    assert page.state() == "Opens for 30 s"
    assert page.knock() == "confirmed"
    assert page.state() == "Open"
    verdicts = page.gate.verdicts()
    knocks = [verdict for verdict in verdicts if isinstance(verdict, ValidKnock) and not verdict.is_close]
    places = {knock.source for knock in knocks if knock.door == "ssh"}
    client = page.lab.client
    assert places <= {client.ipv4, client.ipv6}
    assert len(places) == len(verdicts) > 0
    assert page.browser.evaluate(f"document.querySelector('a[href=\"{LINK}\"]').hidden") is False
    assert page.browser.evaluate("doorward.close('ssh')") == "confirmed"
    assert page.state() == "Closed"
    assert any(isinstance(knock, ValidKnock) and knock.is_close for knock in page.gate.verdicts())
    assert page.browser.complaints() == []
    assert page.browser.requests() == [page.address]


def test_button_opens_the_doors_link(page: Page) -> None:
    page.browser.evaluate("document.querySelector('section button').click()")
    page.browser.until("document.querySelector('[role=status]').textContent === 'Open'")
    asked = [event for event in page.browser.events if event.get("method") == "Page.frameRequestedNavigation"]
    assert [event["params"]["url"] for event in asked] == [LINK]


def test_key_outlives_the_page_and_cannot_be_exported(page: Page) -> None:
    line = page.browser.evaluate("doorward.line()")
    assert line.startswith("ssh-ed25519 ")
    assert page.browser.evaluate("document.getElementById('line').textContent") == line
    page.browser.open(page.address)
    assert page.browser.evaluate("doorward.line()") == line
    stored = page.browser.evaluate(STORED_KEY)
    assert (stored["extractable"], stored["usages"]) == (False, ["sign"])


def test_name_is_in_the_line(page: Page) -> None:
    rename = "(name => { const box = document.getElementById('name'); box.value = name;"
    rename += " box.dispatchEvent(new Event('input')); return doorward.line(); })"
    assert page.browser.evaluate(f'{rename}("Ann\'s phone <b>")').endswith(" Ann-s-phone-b-")
    page.browser.until(f"({STORED_KEY}).then(({{name}}) => name === 'Ann-s-phone-b-')")  # the browser is writing it
    page.browser.open(page.address)
    assert page.browser.evaluate("doorward.line()").endswith(" Ann-s-phone-b-")


def test_name_from_another_page_of_the_origin_ends_no_quotes(page: Page) -> None:
    page.browser.evaluate("doorward.line()")
    page.browser.evaluate(RENAMED)
    page.browser.open(page.address)
    assert page.browser.evaluate("doorward.line()").endswith(" -id-")
    command = "[...document.querySelectorAll('code')].at(-1).textContent"
    assert page.browser.evaluate(command).count("'") == 2


@pytest.mark.parametrize("lost", [1, 3])
def test_lost_packets_are_repeated(page: Page, lost: int) -> None:
    page.gate.loses = lost
    assert page.knock() == "confirmed"


def test_silent_gate(page: Page) -> None:
    page.gate.confirms = False
    began_s = time.monotonic()
    assert page.knock("wiki") == "silent"
    assert time.monotonic() - began_s >= 2
    assert page.state("wiki") == "Knocked"
    received = [
        each
        for each in page.gate.received.values()
        if isinstance(each.verdict, ValidKnock) and (each.verdict.door, each.verdict.is_close) == ("wiki", False)
    ]
    assert len(received) == 2  # one for each address, however often it was repeated
    assert max(each.frames for each in received) > 5


def test_key_that_is_not_allowed(page: Page) -> None:
    page.gate.authorize()
    assert page.knock() == "silent"
    verdicts = page.gate.verdicts()
    assert verdicts
    assert {verdict.reason for verdict in verdicts if isinstance(verdict, KnockRejection)} == {"key"}


def test_no_network(page: Page) -> None:
    client = page.lab.client
    client.ip("link", "set", client.interface, "down")
    try:
        assert page.knock() == "blocked"
        assert page.state() == "Not sent"
    finally:
        client.ip("link", "set", client.interface, "up")
        client.ip("address", "replace", f"{client.ipv6}/64", "dev", client.interface, "nodad")
    assert page.gate.verdicts() == []


def test_unknown_door(page: Page) -> None:
    failing = "doorward.knock('constructor').catch(error => error.message)"
    assert page.browser.evaluate(failing) == "This page has no door constructor."


def test_injected_names_are_text(
    page: Page, opened: tuple[Browser, BrowserGate, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    evil = "</title></script><script>document.title='run'</script><img src=http://127.0.0.1:9/ onerror=alert(1)>"
    link = "ssh=x://a';alert(1)//&lt;script&gt;"
    text = shared(opened[2], capsys, "ssh", "--host", "192.0.2.7", "--title", evil, "--link", link)
    no_doors_name = json.dumps(evil).replace("<", "\\u003c")
    text = text.replace('{"name": "ssh"', f'{{"name": {no_doors_name}')
    (opened[2] / "evil.html").write_text(text)
    page.browser.open(f"file://{opened[2] / 'evil.html'}")
    assert page.browser.evaluate("doorward.line()").startswith("ssh-ed25519 ")
    assert page.browser.evaluate("document.querySelector('h1').textContent") == evil[:100]
    assert page.browser.evaluate("document.querySelector('section h2').textContent") == evil
    assert page.browser.evaluate("[document.images.length, document.scripts.length]") == [0, 2]
    assert page.browser.evaluate("document.title") != "run"
    assert page.browser.complaints() == []


def site(page: Page, ahead_s: float = 0.0, address: str = "127.0.0.1") -> AbstractContextManager[str]:
    """Serve the page on the client itself; inside, its address."""
    path = Path(page.address.removeprefix("file://"))
    return page_site(page.lab.client, path, address, ahead_s=ahead_s)


@contextmanager
def with_script(browser: Browser, script: str) -> Iterator[None]:
    """Run a script in front of a page's own."""
    made = browser.ask("Page.addScriptToEvaluateOnNewDocument", source=script)
    yield
    browser.ask("Page.removeScriptToEvaluateOnNewDocument", **made)


def notices(browser: Browser) -> list[str]:
    found: list[str] = browser.evaluate("[...document.querySelectorAll('[role=alert]')].map(each => each.textContent)")
    return found


def test_page_works_offline(page: Page, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["share", "--worker"]) == 0
    Path(page.address.removeprefix("file://")).with_name("knock-worker.js").write_text(capsys.readouterr().out)
    with site(page) as address:
        page.browser.open(address)
        page.gate.authorize(page.browser.evaluate("doorward.line()"))
        page.browser.evaluate("navigator.serviceWorker.ready.then(() => null)")
        page.browser.until("caches.match(location.href)")  # the worker is fetching it
        scopes = "navigator.serviceWorker.getRegistrations().then(all => all.map(({scope}) => scope))"
        assert page.browser.evaluate(scopes) == [address]  # the other pages of the site go without it
        assert page.browser.complaints() == []
    page.browser.open(address)
    assert page.knock() == "confirmed"


@pytest.mark.parametrize(("ahead_s", "words"), [(0, []), (120, ["behind"]), (-3600, ["ahead"])])
def test_clock_is_compared_with_the_sites(page: Page, ahead_s: int, words: list[str]) -> None:
    with site(page, ahead_s) as address, with_script(page.browser, ANSWERED):
        page.browser.open(address)
        page.browser.evaluate("answered.then(() => new Promise(done => setTimeout(done)))")  # the page has seen it
        found = notices(page.browser)
    assert len(found) == len(words)
    assert all(f"{abs(ahead_s) // 100}" in notice and word in notice for notice, word in zip(found, words, strict=True))


def test_obstacles_are_named(page: Page) -> None:
    with site(page, address=str(page.lab.client.ipv4)) as address:
        page.browser.open(address)
        assert notices(page.browser) == [
            "This page needs https, or a file on this device: browsers keep cryptography from pages loaded over http."
        ]
    frame = Path(page.address.removeprefix("file://")).with_name("frame.html")
    with site(page) as address:
        frame.write_text("<!doctype html><iframe src='knock.html'></iframe>")
        page.browser.open(address.replace("knock.html", "frame.html"))
        inner = "frames[0].document.querySelector('[role=alert]').textContent.slice(0, 35)"
        assert page.browser.evaluate(inner) == "This page does not work within anot"
    with with_script(page.browser, "delete globalThis.RTCPeerConnection"):
        page.browser.open(page.address)
        assert [notice[:22] for notice in notices(page.browser)] == ["WebRTC is switched off"]


@pytest.mark.parametrize("failing", ["IDBFactory.prototype.open", "IDBObjectStore.prototype.add"])
def test_browser_that_keeps_no_key(page: Page, failing: str) -> None:
    with site(page) as address, with_script(page.browser, f"{failing} = () => {{ throw new Error('kept off'); }}"):
        page.browser.open(address)
        page.gate.authorize(page.browser.evaluate("doorward.line()"))
        assert ["private window" in notice for notice in notices(page.browser)] == [True]
        assert page.knock() == "confirmed"


def test_browser_without_ed25519(page: Page) -> None:
    failing = """
      const generate = crypto.subtle.generateKey.bind(crypto.subtle);
      crypto.subtle.generateKey = async (algorithm, ...rest) => {
        if (algorithm === "Ed25519") throw new DOMException("", "NotSupportedError");
        return generate(algorithm, ...rest);
      };"""
    with site(page) as address, with_script(page.browser, failing):  # a site of its own has no key yet
        page.browser.open(address)
        line = page.browser.evaluate("doorward.line()")
        assert line.startswith("ecdsa-sha2-nistp256 ")
        page.gate.authorize(line)
        assert page.knock() == "confirmed"


def test_what_a_screen_reader_gets(page: Page) -> None:
    page.browser.evaluate("document.querySelector('details.card').open = true")
    page.browser.ask("Accessibility.enable")
    nodes = [node for node in page.browser.ask("Accessibility.getFullAXTree")["nodes"] if not node["ignored"]]
    named = {(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes}
    assert {("button", "Open ssh"), ("button", "Open wiki"), ("button", "Copy"), ("region", "ssh")} <= named
    assert ("textbox", "Name of this device") in named
    assert ("heading", "Home server") in named


@pytest.mark.parametrize("look", LOOKS)
def test_appearance(page: Page, look: str) -> None:
    width, scheme = LOOKS[look]
    page.browser.look(width, scheme, phone=width < 500)
    page.knock()
    picture = page.browser.picture()
    assert struct.unpack("!I", picture[16:20]) == (width * (2 if width < 500 else 1),)
    page.browser.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true; })")
    page.browser.evaluate("document.querySelector('[aria-expanded]').click()")
    assert page.browser.evaluate("document.querySelector('svg[role=img] path').getAttribute('d').length") > 1000
    for narrow in (width, 320):
        page.browser.look(narrow, scheme, phone=narrow < 500)
        assert page.browser.evaluate(TOO_WIDE) == []
    assert page.browser.complaints() == []
    if os.environ.get("PICTURES") == "write" and look == "phone-light":
        (PICTURES / "knock-phone-light.png").write_bytes(picture)
