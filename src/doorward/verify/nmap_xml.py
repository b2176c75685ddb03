"""Incremental parser for nmap's XML: the scan's progress, and each port's answer. Pure.

Entity declarations are rejected, so no short text can expand to gigabytes. Elements are dropped once they are read.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from enum import StrEnum
from typing import NamedTuple, cast
from xml.etree.ElementTree import Element, ParseError, XMLPullParser

from doorward.errors import MalformedError
from doorward.model import Port, Protocol
from doorward.verify.port_set import LAST_PORT

_ENTITY = "<!ENTITY"
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
        self._parser: XMLPullParser[Element] = XMLPullParser()
        # UTF-8 regardless of the document's claim, in which it could hide a declaration.
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._end = ""  # of the last chunk: a declaration may begin there

    def feed(self, raw: bytes) -> None:
        """Parse the next chunk."""
        self._bytes += len(raw)
        if self._bytes > MAX_BYTES:
            raise MalformedError("output-too-long", f"nmap wrote more than {MAX_BYTES >> 20} MiB; ask for fewer ports")
        text = self._decoder.decode(raw)
        if _ENTITY in self._end + text:
            raise MalformedError(
                "xml-entities", "nmap's XML declares entities, which nmap never does; is `nmap` another program?"
            )
        self._end = (self._end + text)[-len(_ENTITY) :]
        self._parser.feed(text)
        self._read()

    def result(self) -> ScanResult:
        """Finish, and return the scan."""
        self._read(is_last=True)
        if not self._finished:
            raise MalformedError("scan-unfinished", "nmap did not finish its scan; run it again")
        return ScanResult(self._seen, self._up)

    def _read(self, *, is_last: bool = False) -> None:
        try:
            if is_last:
                self._parser.close()
            for _, element in cast("Iterator[tuple[str, Element]]", self._parser.read_events()):
                self._on_element(element)
        except ParseError as error:
            raise MalformedError("invalid-xml", f"nmap's XML cannot be read: {error}; run it again") from None

    def _on_element(self, element: Element) -> None:
        match element.tag:
            case "state" | "extrareasons":  # read with the element around it
                return
            case "taskprogress":
                percent = element.get("percent", "")
                self.percent = float(percent) if _PERCENT.fullmatch(percent) else self.percent
            case "status":
                self._up = element.get("state") == "up"
            case "port":
                port = Port(_protocol(element.get("protocol", "")), _number(element.get("portid", "")))
                if (state := element.find("state")) is not None:
                    self._seen[port] = _result(state.get("state", ""), state)
            case "extraports":
                for reasons in element.iter("extrareasons"):
                    self._seen |= _grouped(reasons, element.get("state", ""))
            case "finished":
                self._finished = element.get("exit") == "success"
        element.clear()


def _grouped(reasons: Element, state: str) -> dict[Port, PortResult]:
    """Return the ports with the most common answer, which nmap reports by ranges (since version 7.90)."""
    if (ports := reasons.get("ports")) is None:
        raise MalformedError(
            "nmap-too-old", "this nmap does not list the ports of its ranges; install version 7.90 or newer"
        )
    protocol = _protocol(reasons.get("proto", ""))
    return dict.fromkeys((Port(protocol, number) for number in _numbers(ports)), _result(state, reasons))


def port_result(state: str, reason: str, by: str) -> PortResult:
    """Return the answer for nmap's state: `filtered` is silence only if nothing at all came back."""
    reason = reason if _WORD.fullmatch(reason) else "unknown"
    by = by if _ADDRESS.fullmatch(by) else ""
    if state == "open":
        return PortResult(PortAnswer.OPEN, reason, by)
    if state == "closed":
        return PortResult(PortAnswer.CLOSED, reason, by)
    return PortResult(PortAnswer.SILENT if reason.startswith("no-response") else PortAnswer.REJECTED, reason, by)


def _result(state: str, element: Element) -> PortResult:
    return port_result(state, element.get("reason", ""), element.get("reason_ip", ""))


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
