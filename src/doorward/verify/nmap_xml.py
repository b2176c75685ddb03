"""Incremental parser for nmap's XML: the scan's progress, and each port's answer. Pure.

It uses expat without a tree: entity declarations are rejected, so no short text can expand to gigabytes, and nothing
outside the document is ever fetched.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import StrEnum
from typing import NamedTuple
from xml.parsers import expat

from doorward.errors import MalformedError
from doorward.model import Port, Protocol
from doorward.verify.port_set import LAST_PORT

MAX_BYTES = 64 << 20  # 131,070 ports with a line each take 25 MB
_PROTOCOLS = {protocol.name.lower(): protocol for protocol in Protocol}
_WORD = re.compile(r"[a-z][a-z -]{0,39}")
_ADDRESS = re.compile(r"[0-9A-Fa-f:.%a-z]{2,60}")
_RANGE = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")
_PERCENT = re.compile(r"[0-9]{1,3}(\.[0-9]{1,6})?")


class PortAnswer(StrEnum):
    """A port's answer to a probe."""

    OPEN = "open"
    CLOSED = "closed"  # reset, or ICMP port unreachable: reveals the host
    REJECTED = "rejected"  # another ICMP error: reveals a packet filter
    SILENT = "silent"


class PortResult(NamedTuple):
    """A port's answer, nmap's reason, and the sender of the answer if it was not the host itself."""

    answer: PortAnswer
    reason: str
    by: str = ""


class ScanResult(NamedTuple):
    """A whole scan; `is_up` is False if no host on its network has the address."""

    seen: dict[Port, PortResult]
    is_up: bool


class NmapReader:
    """Parses XML in chunks of any size. MalformedError: it is not nmap's, or incomplete."""

    def __init__(self) -> None:
        self.percent = 0.0  # of the scan, as last reported
        self._seen: dict[Port, PortResult] = {}
        self._bytes = 0
        self._up = self._finished = False
        self._port: Port | None = None
        self._state = ""
        self._parser = expat.ParserCreate("UTF-8")  # regardless of the document's claim, which Python may not support
        self._parser.StartElementHandler = self._on_start
        self._parser.EntityDeclHandler = _reject_entities

    def feed(self, raw: bytes) -> None:
        """Parse the next chunk."""
        self._bytes += len(raw)
        if self._bytes > MAX_BYTES:
            raise MalformedError("output-too-long", f"nmap wrote more than {MAX_BYTES >> 20} MiB; ask for fewer ports")
        self._parse(raw, last=False)

    def result(self) -> ScanResult:
        """Finish, and return the scan."""
        self._parse(b"", last=True)
        if not self._finished:
            raise MalformedError("scan-unfinished", "nmap did not finish its scan; run it again")
        return ScanResult(self._seen, self._up)

    def _parse(self, raw: bytes, *, last: bool) -> None:
        try:
            self._parser.Parse(raw, last)
        except expat.ExpatError as error:
            raise MalformedError("invalid-xml", f"nmap's XML cannot be read: {error}; run it again") from None

    def _on_start(self, name: str, attributes: dict[str, str]) -> None:
        if name in _READERS:
            _READERS[name](self, attributes)

    def _progress(self, attributes: dict[str, str]) -> None:
        percent = attributes.get("percent", "")
        self.percent = float(percent) if _PERCENT.fullmatch(percent) else self.percent

    def _status(self, attributes: dict[str, str]) -> None:
        self._up = attributes.get("state") == "up"

    def _begin_port(self, attributes: dict[str, str]) -> None:
        self._port = Port(_protocol(attributes.get("protocol", "")), _number(attributes.get("portid", "")))

    def _begin_state(self, attributes: dict[str, str]) -> None:
        if self._port is not None:
            self._seen[self._port] = port_result(
                attributes.get("state", ""), attributes.get("reason", ""), attributes.get("reason_ip", "")
            )
        self._port = None

    def _begin_extra(self, attributes: dict[str, str]) -> None:
        self._state = attributes.get("state", "")

    def _extra_reasons(self, attributes: dict[str, str]) -> None:
        """Add ports with the most common answer, which nmap reports by ranges (since version 7.90)."""
        if "ports" not in attributes:
            raise MalformedError(
                "nmap-too-old", "this nmap does not list the ports of its ranges; install version 7.90 or newer"
            )
        seen = port_result(self._state, attributes.get("reason", ""), "")
        protocol = _protocol(attributes.get("proto", ""))
        self._seen |= {Port(protocol, number): seen for number in _numbers(attributes["ports"])}

    def _finish(self, attributes: dict[str, str]) -> None:
        self._finished = attributes.get("exit") == "success"


_READERS = {
    "taskprogress": NmapReader._progress,
    "status": NmapReader._status,
    "port": NmapReader._begin_port,
    "state": NmapReader._begin_state,
    "extraports": NmapReader._begin_extra,
    "extrareasons": NmapReader._extra_reasons,
    "finished": NmapReader._finish,
}


def port_result(state: str, reason: str, by: str) -> PortResult:
    """Return the answer for nmap's state: `filtered` is silence only if nothing at all came back."""
    reason = reason if _WORD.fullmatch(reason) else "unknown"
    by = by if _ADDRESS.fullmatch(by) else ""
    if state == "open":
        return PortResult(PortAnswer.OPEN, reason, by)
    if state == "closed":
        return PortResult(PortAnswer.CLOSED, reason, by)
    return PortResult(PortAnswer.SILENT if reason.startswith("no-response") else PortAnswer.REJECTED, reason, by)


def _reject_entities(*_: object) -> None:
    raise MalformedError(
        "xml-entities", "nmap's XML declares entities, which nmap never does; is `nmap` another program?"
    )


def _protocol(text: str) -> Protocol:
    if text not in _PROTOCOLS:
        raise MalformedError("unknown-protocol", "nmap reported a protocol other than tcp and udp; run it again")
    return _PROTOCOLS[text]


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= LAST_PORT):
        raise MalformedError("invalid-port", f"nmap reported the invalid port {text[:20]!r}; run it again")
    return int(text)


def _numbers(text: str) -> Iterator[int]:
    for item in text.split(","):
        match = _RANGE.fullmatch(item)
        if match is None:
            raise MalformedError("invalid-port", f"nmap reported the invalid ports {item[:20]!r}; run it again")
        first, last = _number(match[1]), _number(match[2] or match[1])
        yield from range(first, last + 1)
