"""Assemble the page from its files and the doors; it holds no secret. Pure.

The page's policy admits its own script and style by their hashes, and no request to other servers. The doors are in it
as JSON, which the script shows as text, never as markup.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from doorward import __version__
from doorward.config.schema import BROWSER_REFUSED_PORTS, Configuration
from doorward.errors import InvalidValueError, UsageError
from doorward.model import Address, Door, Port
from doorward.report.markup import Html, fill
from doorward.signed.server_key import X25519, ServerKey

MAX_LINK_LETTERS, MAX_TITLE_LETTERS = 500, 100
_LINK = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://[^\s<>\"\\^`{|}]+")
_SCRIPT_SCHEMES = frozenset({"javascript", "vbscript", "data"})


class PageFiles(NamedTuple):
    """The files that the page is made of; `scripts` become one module."""

    template: str
    style: str
    scripts: tuple[str, ...]


class KnockPage(NamedTuple):
    """What a page knows: its heading, the server, the doors with seconds and link."""

    title: str
    key: ServerKey
    gate: str
    addresses: tuple[Address, ...]
    ports: tuple[int, ...]
    window_s: float
    doors: tuple[tuple[str, int, str], ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the contents in the form that the page's script reads."""
        return {
            "key": str(self.key),
            "gate": self.gate,
            "addresses": [str(address) for address in self.addresses],
            "ports": list(self.ports),
            "window": self.window_s,
            "doors": [{"name": name, "seconds": seconds, "link": link} for name, seconds, link in self.doors],
        }


def build_page(
    configuration: Configuration,
    key: ServerKey,
    doors: Iterable[Door],
    addresses: Iterable[Address],
    links: Mapping[str, str],
    title: str | None,
) -> KnockPage:
    """Return the page's contents; `configuration` has [signed]. UsageError: browsers cannot knock at this server."""
    assert configuration.signed is not None  # noqa: S101
    if key.suite is not X25519:
        raise UsageError(
            "page-needs-x25519",
            f"the server's key is of suite {key.suite.name}, too long for a browser's packet; make one with "
            "`doorward key server --suite x25519`",
        )
    shown, gate = tuple(addresses), configuration.gate.name or ""
    return KnockPage(
        (title or gate or str(shown[0]))[:MAX_TITLE_LETTERS],
        key,
        gate,
        shown,
        _usable_ports(configuration.signed.ports),
        configuration.signed.window_ms / 1000,
        tuple((door.name, -(-door.for_ms // 1000), links.get(door.name, "")) for door in doors),
    )


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
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; img-src data:; "
        "connect-src 'self'; worker-src 'self'; base-uri 'none'; form-action 'none'"
    )
    # In JSON these letters occur only within strings, where an escape means the same.
    data = json.dumps(page.as_dict()).translate({ord(letter): f"\\u{ord(letter):04x}" for letter in "<>&"})
    heading = fill("{}", page.title)
    return fill(
        files.template, __version__, Html(policy), heading, Html(style), heading, Html(data), Html(script)
    )  # fmt: skip


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
