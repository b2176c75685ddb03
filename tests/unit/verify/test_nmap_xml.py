"""nmap's XML, as recorded from nmap 7.93 in a lab, and invalid documents."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorward.errors import MalformedError
from doorward.model import Port
from doorward.verify.nmap_xml import NmapReader, PortAnswer, PortResult, ScanResult, port_result
from doorward.verify.port_set import parse_ports
from fuzz.__main__ import CORPUS
from tests.support.errors import raises

SAMPLES = CORPUS / "nmap_report"
SILENT, RESET = PortResult(PortAnswer.SILENT, "no-response"), PortResult(PortAnswer.CLOSED, "reset")


def read(raw: bytes, piece: int = 1 << 16) -> ScanResult:
    reader = NmapReader()
    for start in range(0, len(raw), piece):
        reader.feed(raw[start : start + piece])
    return reader.result()


def sample(name: str) -> dict[str, PortResult]:
    result = read((SAMPLES / name).read_bytes())
    assert result.is_up
    return {str(port): seen for port, seen in result.seen.items()}


@pytest.mark.parametrize("name", ["stealth", "connect"])
def test_a_silent_host_with_one_public_port(name: str) -> None:
    seen = sample(name)
    assert seen.pop("80/tcp") == PortResult(PortAnswer.OPEN, "syn-ack")
    assert len(seen) == {"stealth": 200, "connect": 199}[name]
    assert set(seen.values()) == {SILENT}


def test_guarded_host_is_closed_except_for_its_door() -> None:
    seen = sample("guard")
    assert seen.pop("22/tcp") == SILENT
    assert seen.pop("80/tcp").answer is PortAnswer.OPEN
    assert set(seen.values()) == {RESET}
    assert "7000/tcp" in seen


@pytest.mark.parametrize(
    ("name", "wanted"), [("udp", SILENT), ("guard-udp", PortResult(PortAnswer.CLOSED, "port-unreach"))]
)
def test_udp_ports(name: str, wanted: PortResult) -> None:
    assert sample(name) == {"53/udp": wanted, "8000/udp": wanted}


def test_single_port_and_port_list_give_the_same() -> None:
    seen = sample("few")
    assert seen.pop("80/tcp").answer is PortAnswer.OPEN
    assert seen == {f"{number}/tcp": SILENT for number in range(20, 25)}


def test_rejecting_packet_filter_is_not_silent() -> None:
    by = "2001:db8:1::1"
    assert sample("rejected-few") == {
        "22/tcp": SILENT,
        "50/tcp": PortResult(PortAnswer.REJECTED, "admin-prohibited", by),
        "100/tcp": PortResult(PortAnswer.REJECTED, "port-unreach", by),
        "26/udp": PortResult(PortAnswer.REJECTED, "admin-prohibited", by),
    }


def test_several_reasons_for_grouped_ports() -> None:
    seen = sample("rejected")
    reported = {
        reason: {port for port, one in seen.items() if one.reason == reason} for reason in ("reset", "port-unreach")
    }
    assert reported["port-unreach"] == {f"{number}/tcp" for number in (110, 111, 117, 135, 139)}
    assert reported["reset"] == {str(port) for port in parse_ports("1-21,23-49")}
    assert seen["53/tcp"].answer is seen["80/tcp"].answer is PortAnswer.REJECTED
    assert len(seen) == 200


def test_progress_is_reported_incrementally() -> None:
    raw = (SAMPLES / "progress").read_bytes()
    reader = NmapReader()
    reported = []
    for line in raw.splitlines(keepends=True):
        reader.feed(line)
        reported.append(reader.percent)
    assert reported[0] == 0
    assert reported == sorted(reported)
    assert reported[-1] > 50


def test_missing_host() -> None:
    assert read((SAMPLES / "down").read_bytes()) == ScanResult({}, is_up=False)


@pytest.mark.parametrize("name", ["stealth", "few", "connect", "udp", "progress", "rejected", "down"])
def test_chunk_size_does_not_matter(name: str) -> None:
    raw = (SAMPLES / name).read_bytes()
    assert read(raw, 1) == read(raw, 7) == read(raw)


@given(st.integers(0, 1300))
def test_truncated_scan_is_rejected(length: int) -> None:
    raw = (SAMPLES / "stealth").read_bytes()
    with pytest.raises(MalformedError):
        read(raw[:length])


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"", "invalid-xml"),
        (b"nmap: no", "invalid-xml"),
        (b"<nmaprun/>", "scan-unfinished"),
        (b'<?xml version="1.0" encoding="rot13"?><nmaprun/>', "scan-unfinished"),
        (b'<nmaprun><runstats><finished exit="error"/></runstats></nmaprun>', "scan-unfinished"),
        (b'<!DOCTYPE n [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><n>&b;</n>', "xml-entities"),
        (b'<!DOCTYPE n [<!ENTITY a SYSTEM "file:///etc/passwd">]><n>&a;</n>', "xml-entities"),
        ('<!DOCTYPE n [<!ENTITY a "aaaa">]><n>&a;</n>'.encode("utf-16"), "invalid-xml"),
        (
            b'<?xml version="1.0" encoding="cp037"?>' + '<!DOCTYPE n [<!ENTITY a "aa">]>'.encode("cp037"),
            "invalid-xml",
        ),
        (b'<n><port protocol="sctp" portid="1"/></n>', "unknown-protocol"),
        (b'<n><port protocol="tcp" portid="65536"/></n>', "invalid-port"),
        (b'<n><port protocol="tcp"/></n>', "invalid-port"),
        (b'<extraports><extrareasons reason="resets" count="3"/></extraports>', "nmap-too-old"),
        (b'<extraports><extrareasons proto="tcp" ports="1-2-3"/></extraports>', "invalid-port"),
    ],
)
@pytest.mark.parametrize("piece", [1, 1 << 16])
def test_documents_of_other_programs_are_rejected(raw: bytes, code: str, piece: int) -> None:
    with raises(MalformedError, code):
        read(raw, piece)


def test_oversized_document_is_rejected() -> None:
    reader = NmapReader()
    reader.feed(b"<n>")
    space = b" " * (64 << 20)
    with raises(MalformedError, "output-too-long"):
        reader.feed(space)


ATTRIBUTE = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=12)


@given(st.sampled_from(["open", "closed", "filtered", "open|filtered"]) | ATTRIBUTE, ATTRIBUTE, ATTRIBUTE)
def test_only_no_response_is_silent_and_untrusted_text_is_dropped(state: str, reason: str, by: str) -> None:
    seen = port_result(state, reason, by)
    assert (seen.answer is PortAnswer.SILENT) == (
        state not in ("open", "closed") and reason.startswith("no-response") and seen.reason == reason
    )
    assert seen.reason.isprintable()
    assert seen.reason.isascii()
    assert seen.by.isprintable()


@given(st.binary(max_size=300))
def test_any_bytes_give_a_result_or_one_error(raw: bytes) -> None:
    with pytest.raises(MalformedError):
        read(raw)


@given(st.dictionaries(st.integers(1, 65535), st.sampled_from(["open", "closed"]), max_size=20))
def test_each_port_gets_its_own_answer(states: dict[int, str]) -> None:
    ports = "".join(
        f'<port protocol="tcp" portid="{n}"><state state="{state}" reason="x"/></port>' for n, state in states.items()
    )
    result = read(f'<n>{ports}<finished exit="success"/></n>'.encode())
    assert result.seen == {Port.parse(f"{n}/tcp"): PortResult(PortAnswer(state), "x") for n, state in states.items()}
