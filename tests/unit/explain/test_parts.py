"""The parts of `explain`: connection tracking, server addresses, collected packets, and text."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from doorward.daemon.ledger import Record
from doorward.explain import collect as module
from doorward.explain import wording
from doorward.explain.collect import PacketCollector
from doorward.explain.conntrack import MOST_CONNECTIONS, ConnectionState, ConnectionTracker
from doorward.explain.history import diagnose_records
from doorward.explain.sources import SourceTraces, server_addresses
from doorward.explain.summary import rows
from doorward.packets.datalink import NetworkPacket
from doorward.packets.decode import decode_flow
from doorward.packets.pcap import CapturedFrame
from tests.support.captures import BEGAN_NS, CLIENT, SERVER, compiled, explained, recorded, script

CONFIG = compiled("""
[gate]
public = ["80/tcp"]
[doors.ssh]
knock = ["7000/tcp", "8000/udp", "9000/tcp"]
opens = ["22/tcp"]
""")
NEW, ACKNOWLEDGED, ESTABLISHED = ConnectionState.NEW, ConnectionState.ACKNOWLEDGED, ConnectionState.ESTABLISHED
ANSWER, LATER = ConnectionState.ANSWER, ConnectionState.LATER_ANSWER


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0 1/tcp sport=5; 1 1/tcp sport=5", [NEW, NEW]),  # retransmitted, unanswered
        (
            "0 1/tcp sport=5; 1 <1/tcp SA sport=5; 2 1/tcp A sport=5; 3 1/tcp PA sport=5",
            [NEW, ANSWER, ACKNOWLEDGED, ESTABLISHED],
        ),
        ("0 1/tcp sport=5; 1 <1/tcp SA sport=5; 2 <1/tcp SA sport=5", [NEW, ANSWER, LATER]),
        ("0 1/tcp sport=5; 1 1/tcp A sport=5; 2 <1/tcp SA sport=5", [NEW, ACKNOWLEDGED, ANSWER]),  # late start
        ("0 1/tcp sport=5; 1 <1/tcp RA sport=5; 2 1/tcp sport=5", [NEW, ANSWER, NEW]),  # a knock at a closed port
        ("0 1/tcp sport=5; 1 <1/tcp SA sport=5; 2 1/tcp sport=5", [NEW, ANSWER, ESTABLISHED]),
        ("0 1/tcp A sport=5; 1 1/tcp A sport=5", [NEW, NEW]),  # begun before the capture
        ("0 1/tcp A sport=5; 1 <1/tcp A sport=5; 2 1/tcp A sport=5", [NEW, ANSWER, ACKNOWLEDGED]),
        ("0 1/udp sport=5; 1 1/udp sport=5", [NEW, NEW]),
        ("0 1/udp sport=5; 1 <1/udp sport=5; 2 1/udp sport=5", [NEW, ANSWER, ESTABLISHED]),
        ("0 1/udp sport=5; 1 <1/udp sport=5; 40 1/udp sport=5", [NEW, ANSWER, NEW]),  # expired
        ("0 <1/udp sport=5; 1 1/udp sport=5", [NEW, ANSWER]),  # the host began
        ("0 1/tcp sport=5; 1 1/tcp sport=6", [NEW, NEW]),
        ("0 piece; 1 piece", [NEW, NEW]),
    ],
)
def test_connection_states(text: str, expected: list[ConnectionState]) -> None:
    connections = ConnectionTracker()
    assert [connections.observe(decode_flow(memoryview(sent.raw)), sent.at_s) for sent in script(text)] == expected


def test_connection_table_is_bounded() -> None:
    connections = ConnectionTracker()
    first, answer = (decode_flow(memoryview(sent.raw)) for sent in script("0 1/udp sport=5; 1 <1/udp sport=5"))
    connections.observe(first, 0)
    for number in range(MOST_CONNECTIONS):
        connections.observe(first._replace(source=number.to_bytes(4)), 0)
    assert len(connections._connections) == MOST_CONNECTIONS
    assert connections.observe(answer, 1) is NEW


@pytest.mark.parametrize(
    ("text", "own", "expected"),
    [
        ("0 7000/tcp; 1 8000/udp", [], ["198.51.100.2"]),
        ("0 7000/tcp to=192.0.2.9; 1 7000/tcp to=198.51.100.2; 2 9000/tcp", [], ["198.51.100.2"]),
        ("0 7000/tcp to=192.0.2.9; 1 7000/tcp; 2 9000/tcp to=198.51.100.2", ["198.51.100.2"], ["198.51.100.2"]),
        ("0 7000/tcp; 1 7000/tcp to=192.0.2.9", ["192.0.2.9", "198.51.100.2"], ["192.0.2.9", "198.51.100.2"]),
        ("0 7000/tcp; 1 8000/tcp from=2001:db8::7 to=2001:db8::2", [], ["198.51.100.2", "2001:db8::2"]),
        ("0 5/tcp; 1 6/tcp", [], []),
        ("0 5/tcp to=192.0.2.9; 1 6/tcp; 2 22/tcp to=198.51.100.2", [], ["198.51.100.2"]),
    ],
)
def test_server_addresses(text: str, own: list[str], expected: list[str]) -> None:
    seen = recorded(CONFIG, script(text)).packets
    assert server_addresses(seen, CONFIG, [ip_address(each).packed for each in own]) == {
        ip_address(each).packed for each in expected
    }


def test_bulk_packets_of_connections_are_not_kept() -> None:
    bulk = "".join(f"; {3 + n} 22/tcp PA sport=5; {3 + n}.5 <22/tcp A sport=5" for n in range(20))
    opening = "0 22/tcp sport=5; 1 <22/tcp SA sport=5; 2 22/tcp A sport=5"
    assert len(recorded(CONFIG, script(opening + bulk)).packets) == 3
    begun_before = "".join(f"; {n} 5000/tcp PA sport=5" for n in range(20))
    assert recorded(CONFIG, script(begun_before)).packets == []


def test_source_filter_keeps_other_sources_door_packets() -> None:
    packets = script("0 7000/tcp; 1 5/tcp; 2 7000/tcp from=192.0.2.8; 3 5/tcp; 4 icmp=3/1 by=203.0.113.1")
    seen = recorded(CONFIG, packets, CLIENT).packets
    assert [str(packet.flow.port) for packet in seen] == ["7000/tcp", "5/tcp", "7000/tcp"]
    assert len(recorded(CONFIG, packets).packets) == 5


def test_copies_on_several_interfaces_count_once() -> None:
    """`-i any` shows a packet on a bridge and its port, and on its way in and out."""
    (sent,) = script("0 7000/tcp")

    def kept(*ways: tuple[str, bool | None, float]) -> int:
        collector = PacketCollector(CONFIG)
        for interface, outgoing, at_s in ways:
            network = NetworkPacket(memoryview(sent.raw), outgoing, interface, True)
            collector.feed_packet(network, BEGAN_NS + round(at_s * 1e9))
        return len(collector.packets)

    assert kept(("eth0", False, 0), ("br0", False, 0.001)) == 1
    assert kept(("eth0", False, 0), ("eth0", True, 0.001)) == 1
    assert kept(("", False, 0), ("", False, 0.001)) == 1  # the older cooked header names no interface
    assert kept(("eth0", False, 0), ("br0", False, 0.1)) == 2
    assert kept(("eth0", False, 0), ("eth0", False, 0.001)) == 2


def test_non_ip_frames_are_counted() -> None:
    collector = PacketCollector(CONFIG)
    collector.feed_all([CapturedFrame(BEGAN_NS, 1, bytes(12) + b"\x08\x06" + bytes(28), 42)] * 3)
    collector.feed_all([CapturedFrame(BEGAN_NS, 189, bytes(20), 20)])
    collector.feed_all([CapturedFrame(BEGAN_NS, 101, b"\x45", 1)])
    assert collector.unreadable.most_common(1) == [("no IP packet: protocol 0x0806 (ARP)", 3)]
    assert (collector.frames, collector.packets) == (5, [])


def test_long_capture_is_explained_up_to_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_KEPT", 3)
    raw = script("0 7000/tcp")[0].raw
    collector = PacketCollector(CONFIG)
    collector.feed_all(CapturedFrame(BEGAN_NS + number, 101, raw, len(raw)) for number in range(10))
    assert (collector.frames, len(collector.packets), collector.is_full) == (3, 3, True)


def test_capture_without_timestamps() -> None:
    raw = script("0 7000/tcp")[0].raw
    collector = PacketCollector(CONFIG)
    collector.feed_all([CapturedFrame(0, 101, raw, len(raw))] * 2)
    assert collector.is_timeless
    assert not recorded(CONFIG, script("0 7000/tcp; 1 8000/udp")).is_timeless


def test_packet_rows() -> None:
    text = (
        "0 7000/tcp; 1 7000/tcp; 2 8000/udp; 3 5/tcp; 4 7000/tcp; 5 8000/udp; 6 7000/tcp; 40 8000/udp; 50 80/tcp;"
        " 51 22/tcp; 52 7000/tcp A; 53 7000/tcp to=192.0.2.9; 54 piece to=198.51.100.2; 55 7000/tcp; 56 8000/udp;"
        " 57 9000/tcp; 58 22/tcp sport=5; 59 <22/tcp SA sport=5; 60 22/tcp A sport=5"
    )
    (summary,) = explained(CONFIG, script(text), [SERVER]).sources
    assert [(row.packet, row.meaning, row.state) for row in rows(CONFIG, summary.trace)] == [
        ("SYN 7000/tcp", "knock 1 of 3 for ssh", "ssh 1/3"),
        ("SYN 7000/tcp", "repeated: no change", "ssh 1/3"),
        ("8000/udp", "knock 2 of 3 for ssh", "ssh 2/3"),
        ("SYN 5/tcp", "wrong: expected 9000/tcp; back to the start", "start"),
        ("SYN 7000/tcp", "knock 1 of 3 for ssh", "ssh 1/3"),
        ("8000/udp", "knock 2 of 3 for ssh", "ssh 2/3"),
        ("SYN 7000/tcp", "restarted: knock 1 of 3 for ssh", "ssh 1/3"),
        ("8000/udp", "too late, 34.0 s after the first (within 15s): back to the start", "start"),
        ("SYN 80/tcp", "public port: not a knock", ""),
        ("SYN 22/tcp", "dropped: ssh is closed", ""),
        ("ACK 7000/tcp", "TCP flags do not match (syn,!ack): not a knock", ""),
        ("SYN 7000/tcp", "sent to 192.0.2.9, not to this host: not a knock", ""),
        ("protocol udp", "incomplete packet: IPv4: a later fragment, which has no ports", ""),
        ("SYN 7000/tcp", "knock 1 of 3 for ssh", "ssh 1/3"),
        ("8000/udp", "knock 2 of 3 for ssh", "ssh 2/3"),
        ("SYN 9000/tcp", "knock 3 of 3: opens ssh (22/tcp) for 30s", "ssh 3/3"),
        ("SYN 22/tcp", "accepted: ssh is open for another 29.0 s", ""),
        ("ACK 22/tcp", "part of a connection: not a knock", ""),
    ]


def test_a_signed_knock_may_have_opened_what_comes_after_it() -> None:
    signing = compiled('[doors.ssh]\nopens = ["22/tcp"]\n[signed]\n')
    (summary,) = explained(signing, script("0 22/tcp; 1 62201/udp; 2 22/tcp"), [SERVER]).sources
    before, _, after = [row.meaning for row in rows(signing, summary.trace)]
    assert before == "dropped: ssh is closed"
    assert after == "dropped, unless the signed knock opened ssh"


@pytest.mark.parametrize(("signed", "is_advised"), [("[signed]\n", True), ("", False)])
def test_door_without_a_sequence_needs_a_signed_knock(signed: str, is_advised: bool) -> None:
    hidden = compiled(f'[doors.ssh]\nopens = ["22/tcp"]\n{signed}')
    (summary,) = explained(hidden, script("0 22/tcp"), [SERVER]).sources
    assert summary.diagnosis.fault.kind == "no_knock"
    assert ("signed knock" in summary.diagnosis.fault.remedy) is is_advised


def test_each_port_for_signed_knocks_counts() -> None:
    signing = compiled('[doors.ssh]\nopens = ["22/tcp"]\n[signed]\nport = ["62201/udp", "443/udp"]\n')
    (summary,) = explained(signing, script("0 443/udp; 1 62201/udp; 2 443/udp"), [SERVER]).sources
    assert summary.diagnosis.fault.what.startswith("it sent to 443/udp, 62201/udp, for signed knocks")


def test_packet_rows_with_many_doors() -> None:
    doors = "".join(
        f'[doors.d{n}]\nknock = ["1001/tcp", "1002/tcp", "{2000 + n}/tcp"]\nopens = ["{3000 + n}/tcp"]\n'
        for n in range(6)
    )
    many = compiled(doors + '[doors.short]\nknock = ["1001/tcp", "1002/tcp"]\non_open = ["/bin/true"]\n')
    (summary,) = explained(many, script("0 1001/tcp; 1 1002/tcp; 2 2003/tcp; 3 9/udp"), [SERVER]).sources
    assert [(row.meaning, row.state) for row in rows(many, summary.trace)] == [
        ("knock 1 for d0, d1, d2 and 4 more", "d0 1/3 +6"),
        ("knock 2 of 2: opens short", "d0 2/3 +6"),
        ("knock 3 of 3: opens d3 (3003/tcp) for 30s", "d3 3/3"),
        ("wrong: back to the start", "start"),
    ]


def test_time_never_decreases() -> None:
    raw = script("0 7000/tcp")[0].raw
    collector = PacketCollector(CONFIG)
    for at_s in (0, 10, 9.5, 11, -3600, -3595, -3594.5):
        collector.feed(CapturedFrame(BEGAN_NS + round(at_s * 1e9), 101, raw, len(raw)))
    assert [packet.at_s for packet in collector.packets] == pytest.approx([0, 10, 10, 11, 11, 16, 16.5])


def test_clock_set_back_does_not_reach_the_tracker() -> None:
    traces = SourceTraces(CONFIG, SERVER.packed.__eq__)
    seen = recorded(CONFIG, script("0 7000/tcp; 1 8000/udp; 2 9000/tcp")).packets
    steps = [traces.feed(packet._replace(at_ns=at_s * 10**9)) for packet, at_s in zip(seen, (10, 3, 5), strict=True)]
    assert [step.opened for step in steps if step] == [(), (), (0,)]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0 µs"),
        (0.00002, "20 µs"),
        (0.0002, "0.2 ms"),
        (0.0123, "12 ms"),
        (0.9994, "999 ms"),
        (0.9996, "1.0 s"),
        (6.2, "6.2 s"),
        (59.94, "59.9 s"),
        (59.96, "1m"),
        (125, "2m 5s"),
        (3600, "1h"),
        (90_000, "1d 1h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert wording.span(seconds) == text


def test_words() -> None:
    assert [wording.ordinal(n) for n in (1, 3, 10, 11)] == ["first", "third", "tenth", "11th"]
    assert [wording.number_word(n) for n in (0, 3, 10, 11, 1234)] == ["no", "three", "ten", "11", "1,234"]
    assert wording.span_beyond(5.00001, 5.0) == "5.000 s"
    assert wording.span_beyond(5.2, 5.0) == "5.2 s"
    assert [wording.listed(each) for each in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == [
        "",
        "a",
        "a and b",
        "a, b and c",
    ]
    assert wording.counted(1, "packet") + ", " + wording.counted(1200, "packet") == "1 packet, 1,200 packets"


OPENED = {"ports": ["22/tcp"], "by": "knock", "until": 1030.0, "closed": None, "closed_by": None, "confirmation": None}


@pytest.mark.parametrize(
    ("records", "kind", "expected_text"),
    [
        ([], "no_record", "no knock from 192.0.2.7 was ever completed: the ledger has none"),
        ([OPENED], "is_open", "door ssh opened at <1000>, by knock, and is open for another 20.0 s (22/tcp)"),
        ([OPENED | {"until": 1005.0}], "is_over", "and closed after 5.0 s"),
        ([OPENED | {"closed": 1004.0, "closed_by": "hand"}], "closed_by_hand", "and was closed by hand"),
        (
            [OPENED | {"closed": 1004.0, "closed_by": "lost"}],
            "closed_by_others",
            "and disappeared from the kernel after 4.0 s",
        ),
        (
            [OPENED | {"closed": 1004.0, "closed_by": "key ada"}],
            "closed_by_knock",
            "and was closed by key ada after 4.0 s",
        ),
        (
            [OPENED | {"closed": 1004.0, "closed_by": "use from port 4711"}],
            "used",
            "for one connection, which came after 4.0 s from port 4711",
        ),
        ([OPENED | {"closed": 1004.0, "closed_by": "ban"}], "closed_by_ban", "and a ban closed it after 4.0 s"),
        (
            [OPENED | {"closed": 1004.0, "closed_by": "fleet"}],
            "closed_by_fleet",
            "and was closed at another gate of the fleet after 4.0 s",
        ),
        ([OPENED, {"until": 1009.0, "ended": None}], "is_open", "and is open for another 20.0 s"),  # an expired ban
        ([{"until": 1009.0, "ended": None}], "no_record", "no knock from 192.0.2.7 was ever completed"),
        ([OPENED | {"closed": 1004.0, "closed_by": "time"}], "is_over", "and closed after 4.0 s"),
        ([OPENED | {"confirmation": "sent"}], "is_open", "another 20.0 s (22/tcp); confirmed to the client"),
        ([OPENED | {"confirmation": "off"}], "is_open", "; not confirmed: [signed] has no confirm = true"),
        ([OPENED | {"until": 1005.0, "confirmation": "forged"}], "is_over", "after 5.0 s; not confirmed: forged"),
        ([{"reason": "replayed"}], "refused", "the last knock was rejected at <1000>: replayed"),
        ([OPENED, {"reason": "too old"}], "refused", "the last knock was rejected at <1000>: too old"),
    ],
)
def test_diagnosis_from_ledger(records: list[dict[str, object]], kind: str, expected_text: str) -> None:
    events = ["refused" if "reason" in detail else "banned" if "ended" in detail else "opened" for detail in records]
    found = [Record(1000.0, event, "ssh", "192.0.2.7", detail) for event, detail in zip(events, records, strict=True)]
    diagnosis = diagnose_records("192.0.2.7", found, 1010.0, lambda at_s: f"<{at_s:.0f}>")
    assert diagnosis.fault.kind == kind
    assert expected_text in diagnosis.fault.what
    assert diagnosis.opened == (kind not in ("no_record", "refused"))
    assert diagnosis.fault.remedy


def test_ports_of_ranges_are_listed_once_not_for_each_packet_of_a_scan() -> None:
    config = compiled('[doors.a]\nopens = ["1024-65535/udp"]\n')
    assert config.numbers is config.numbers
    assert config.targets is config.targets
