"""Assemble the page from its files and the doors; it holds no secret but sequences. Pure.

The page's policy admits its own script and style by their hashes, and no request to other servers, except where it
sends port sequences: those are requests. The doors are in it as JSON, which the script shows as text, never as markup.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from doorward import __version__
from doorward.config.schema import BROWSER_REFUSED_PORTS, Configuration, Signed
from doorward.errors import InvalidValueError, UsageError
from doorward.init.client_setup import delay_ms, is_knockable
from doorward.model import Address, Door, Port, Protocol
from doorward.report.markup import Html, fill, policy_source
from doorward.signed.server_key import X25519, ServerKey

MAX_LINK_LETTERS, MAX_TITLE_LETTERS = 500, 100
# What browsers do not connect to: the bad ports of the Fetch standard, section 2.9.
_REFUSED_TCP_PORTS = frozenset({
    1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79, 87, 95, 101, 102, 103, 104, 109, 110,
    111, 113, 115, 117, 119, 123, 135, 137, 139, 143, 161, 179, 389, 427, 465, 512, 513, 514, 515, 526, 530, 531, 532,
    540, 548, 554, 556, 563, 587, 601, 636, 989, 990, 993, 995, 1719, 1720, 1723, 2049, 3659, 4045, 4190, 5060, 5061,
    6000, 6566, 6665, 6666, 6667, 6668, 6669, 6679, 6697, 10080,
})  # fmt: skip
MIN_PAUSE_MS = 100  # a browser takes so long to give up a connection
_LINK = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://[^\s<>\"\\^`{|}]+")
_SCRIPT_SCHEMES = frozenset({"javascript", "vbscript", "data"})


class PageFiles(NamedTuple):
    """The files that the page is made of; `scripts` become one module."""

    template: str
    style: str
    scripts: tuple[str, ...]


class PageDoor(NamedTuple):
    """A door on a page, its sequence as protocol and port; without one it opens with a signed knock."""

    name: str
    seconds: int
    link: str
    steps: tuple[tuple[str, int], ...] = ()
    pause: int = 0


class KnockPage(NamedTuple):
    """What a page knows: its heading, the server, the doors; `key` None: it sends sequences, and is secret."""

    title: str
    key: ServerKey | None
    gate: str
    addresses: tuple[Address, ...]
    ports: tuple[int, ...]
    window_s: float
    doors: tuple[PageDoor, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the contents in the form that the page's script reads."""
        return {
            "key": str(self.key) if self.key else None,
            "gate": self.gate,
            "addresses": [str(address) for address in self.addresses],
            "ports": list(self.ports),
            "window": self.window_s,
            "doors": [door._asdict() for door in self.doors],
        }


def build_page(
    configuration: Configuration,
    key: ServerKey | None,
    doors: Sequence[Door],
    addresses: Iterable[Address],
    links: Mapping[str, str],
    title: str | None,
) -> KnockPage:
    """Return the page's contents, for signed knocks with the server's key, or for port sequences without.

    `configuration` has [signed] if there is a key. UsageError: browsers cannot send such knocks.
    """
    shown, gate, signed = tuple(addresses), configuration.gate.name or "", configuration.signed or Signed()
    entries = [PageDoor(door.name, -(-door.for_ms // 1000), links.get(door.name, "")) for door in doors]
    if key is None:
        sequences = {door.name: _sequence(door) for door in doors}
        entries = [entry._replace(steps=sequences[entry.name][0], pause=sequences[entry.name][1]) for entry in entries]
    elif key.suite is not X25519:
        raise UsageError(
            "page-needs-x25519",
            f"the server's key is of suite {key.suite.name}, too long for a browser's packet; make one with "
            "`doorward key server --suite x25519`",
        )
    heading = (title or gate or str(shown[0]))[:MAX_TITLE_LETTERS]
    ports = _usable_ports(signed.ports) if key else ()
    return KnockPage(heading, key, gate, shown, ports, signed.window_ms / 1000, tuple(entries))


def _sequence(door: Door) -> tuple[tuple[tuple[str, int], ...], int]:
    """Return a door's steps and the pause between them. UsageError: browsers cannot send it."""
    if not is_knockable(door):
        raise UsageError(
            "page-needs-sequence",
            f"door {door.name!r} has no sequence that a browser can send: plain SYNs and datagrams to this host",
        )
    refused = {Protocol.TCP: _REFUSED_TCP_PORTS, Protocol.UDP: BROWSER_REFUSED_PORTS}
    if found := [str(port) for port in door.knock if port.number in refused[port.protocol]]:
        raise UsageError(
            "page-refused-step", f"door {door.name!r}: browsers send nothing to {', '.join(found)}; choose other ports"
        )
    pause_ms = delay_ms(door)
    if pause_ms < MIN_PAUSE_MS:
        raise UsageError(
            "page-short-within",
            f"door {door.name!r}: a browser needs {MIN_PAUSE_MS} ms per packet, too much for its `within`; raise it",
        )
    return tuple((port.protocol.name.lower(), port.number) for port in door.knock), pause_ms


def _usable_ports(ports: tuple[Port, ...]) -> tuple[int, ...]:
    usable = tuple(port.number for port in ports if port.number not in BROWSER_REFUSED_PORTS)
    if not usable:
        raise UsageError(
            "page-refused-port",
            f"browsers send nothing to port {', '.join(map(str, ports))}; add another to `port` in [signed], e.g. "
            "62201/udp or 443/udp",
        )
    return usable


def parse_link(text: str) -> tuple[str, str]:
    """Parse `DOOR=URL`. InvalidValueError: another form, or an address that would run a script."""
    door, equals, link = text.partition("=")
    match = _LINK.fullmatch(link)
    if not equals or match is None or len(link) > MAX_LINK_LETTERS or match[1].lower() in _SCRIPT_SCHEMES:
        raise InvalidValueError(
            "invalid-page-link", f"invalid link {text[:60]!r}; write e.g. ssh=ssh://alice@192.0.2.7"
        )
    return door, link


def render(page: KnockPage, files: PageFiles) -> str:
    """Return the page as HTML."""
    style, script = f"\n{files.style.strip()}\n", "\n" + "\n".join(text.strip() + "\n" for text in files.scripts)
    others = " http: ws:" if page.key is None else ""
    policy = (
        f"default-src 'none'; script-src {policy_source(script)}; style-src {policy_source(style)}; img-src data:; "
        f"connect-src 'self'{others}; worker-src 'self'; base-uri 'none'; form-action 'none'"
    )
    # In JSON these letters occur only within strings, where an escape means the same.
    data = json.dumps(page.as_dict()).translate({ord(letter): f"\\u{ord(letter):04x}" for letter in "<>&"})
    heading = fill("{}", page.title)
    return fill(files.template, __version__, Html(policy), heading, Html(style), heading, Html(data), Html(script))
