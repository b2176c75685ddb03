"""Diagnoses of scripted packets (tests/support/captures.py describes the script)."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from tests.support.captures import CLIENT, SERVER, compiled, concluded, explained, script

CONFIG = compiled("""
[gate]
public = ["80/tcp"]
[doors.ssh]
knock = ["7000/tcp", "8000/udp", "9000/tcp"]
within = "5s"
opens = ["22/tcp"]
for = "30s"
[doors.web]
knock = ["7101/tcp", "7102/tcp"]
opens = ["443/tcp", "443/udp"]
[doors.twin]
knock = ["7500/tcp", "7500/tcp", "7501/tcp"]
opens = ["29/tcp"]
[doors.long]
knock = ["6001/tcp", "6002/tcp", "6003/tcp", "6004/tcp", "6005/tcp", "6006/tcp"]
opens = ["31/tcp"]
[doors.strict]
knock = ["7601/tcp", "7602/tcp"]
flags = ["syn", "!ack", "!ece"]
opens = ["30/tcp"]
[doors.once]
knock = ["7701/tcp", "7702/tcp"]
opens = ["34/tcp"]
once = true
[doors.wake]
knock = ["4001/tcp", "4002/tcp"]
target = "192.0.2.77"
on_open = ["/bin/true"]
[doors.hand]
opens = ["33/tcp"]
[signed]
port = "62201/udp"
""")
GOOD = "0 7000/tcp; 0.01 8000/udp; 0.02 9000/tcp"
ROUTER = "203.0.113.1"


@pytest.mark.parametrize(
    ("text", "kind", "expected_text"),
    [
        # time
        (
            "0 7000/tcp; 0.1 8000/udp; 6.2 9000/tcp",
            "late",
            "the third knock came 6.2 s after the first; `within` is 5s",
        ),
        ("0 7000/tcp; 5.2 8000/udp; 6.2 9000/tcp", "late", "the second knock came 5.2 s after the first"),
        (
            "0 7000/tcp; 0.1 8000/udp; 5 9000/tcp",
            "late",
            "the third knock came 5.000 s after the first; `within` is 5s",
        ),
        (
            "0 7000/tcp; 4 7000/tcp; 4.1 8000/udp; 5.1 9000/tcp",
            "late_after_repeat",
            "5.1 s after the first packet to 7000",
        ),
        ("0 7000/tcp; 70 8000/udp; 75 9000/tcp", "late", "the second knock came 1m 10s after the first"),
        # destination
        ("0 7000/tcp to=192.0.2.9; 0.1 8000/udp; 0.2 9000/tcp", "elsewhere", "not this host (198.51.100.2)"),
        (
            "0 7000/tcp; 0.1 8000/udp to=192.0.2.9; 0.2 9000/tcp to=198.51.100.2",
            "part_elsewhere",
            "second knock went to",
        ),
        (
            "0 7000/tcp to=192.0.2.9; 1 8000/udp to=198.51.100.2; 2 9000/tcp",
            "part_elsewhere",
            "the first knock went to",
        ),
        ("0 4001/tcp; 0.1 4002/tcp", "not_the_target", "not the target of door wake, 192.0.2.77"),
        (
            f"{GOOD}; 0.03 icmp=3/1 by={ROUTER}",
            "unreachable",
            "203.0.113.1 answered for 9000/tcp: unreachable",
        ),
        (
            f"0 7000/tcp; 0.01 icmp=3/13 by={ROUTER}; 1 8000/udp; 2 9000/tcp",
            "unreachable",
            "answered for 7000/tcp: prohibited",
        ),
        (f"0 7000/tcp; 0.01 icmp=11/0 by={ROUTER}; 1 8000/udp", "unreachable", "the first knock did not arrive"),
        # flags, protocol, header
        (
            "0 7601/tcp SE; 0.1 7602/tcp SE",
            "flags_ecn",
            "flags were SYN+ECE; `flags` of door strict is syn,!ack,!ece: the",
        ),
        (
            "0 7000/tcp F; 0.1 8000/udp; 0.2 9000/tcp F",
            "flags",
            "the first knock's flags were FIN; `flags` of door ssh is",
        ),
        ("0 7000/tcp SA; 0.1 8000/udp; 0.2 9000/tcp", "flags", "flags were SYN+ACK"),
        ("0 7000/tcp .; 0.1 8000/udp; 0.2 9000/tcp", "flags", "flags were no flags"),
        (
            "0 7000/udp; 0.1 8000/udp; 0.2 9000/tcp",
            "udp_for_tcp",
            "the first knock came as 7000/udp; door ssh expects 7000/tcp",
        ),
        ("0 7000/tcp; 0.1 8000/tcp; 0.2 9000/tcp", "tcp_for_udp", "the second knock came as 8000/tcp"),
        ("0 7000/tcp cut=36; 0.1 8000/udp; 0.2 9000/tcp", "cut", "the capture truncated the first knock"),
        ("0 7000/tcp cut=20; 0.1 8000/udp cut=20", "cut", "the capture truncated its packets before the ports"),
        ("0 7000/tcp; 0.1 piece; 0.2 9000/tcp", "fragment", "the second knock (8000/udp) was fragmented"),
        (
            "0 <8000/udp sport=4; 0.1 7000/tcp; 1 8000/udp sport=4; 2 9000/tcp",
            "established",
            "an established connection",
        ),
        # order
        (
            "0 7000/tcp; 0.1 9000/tcp; 0.1002 8000/udp",
            "overtaken",
            "the third knock came 0.2 ms before the second: packets",
        ),
        ("0 7000/tcp; 0.1 9000/tcp; 0.10002 8000/udp", "overtaken", "the third knock came 20 µs before the second"),
        (
            "0 7000/tcp; 0.1 9000/tcp; 0.3 8000/udp",
            "order",
            "200 ms before the second: the order was 7000/tcp 9000/tcp 8000",
        ),
        ("0 9000/tcp; 1 8000/udp; 2 7000/tcp", "reversed", "the knocks came in reverse: 9000/tcp 8000/udp 7000/tcp"),
        (
            "0 6001/tcp; 1 6002/tcp; 2 6004/tcp; 3 6003/tcp; 4 6005/tcp; 5 6006/tcp",
            "order",
            "fourth knock came 1.0 s before",
        ),
        # stray packets
        (
            "0 7000/tcp; 1 8443/tcp; 2 8000/udp; 3 9000/tcp",
            "stray",
            "8443/tcp between knocks 1 and 2 reset the progress",
        ),
        (
            "0 7000/tcp; 1 8443/tcp; 2 8444/tcp; 3 8000/udp; 4 9000/tcp",
            "stray",
            "a packet to 8443/tcp between knocks 1 and 2",
        ),
        ("0 7000/tcp; 1 8000/udp; 2 53/udp; 3 9000/tcp", "stray", "a packet to 53/udp between knocks 2 and 3"),
        (
            "0 7000/tcp; 1 7101/tcp; 2 8000/udp; 3 9000/tcp",
            "other_door",
            "7101/tcp, a knock of door web, came between knocks 1",
        ),
        (
            "0 7000/tcp; 1 8000/udp; 2 7000/tcp; 3 9000/tcp",
            "restarted",
            "another packet to 7000/tcp came between knocks 2 and 3",
        ),
        (
            "0 7000/tcp sport=9 seq=1; 0.1 8000/udp; 1 7000/tcp sport=9 seq=1; 1.1 9000/tcp",
            "retransmitted",
            "retransmitted its SYN to 7000/tcp after 1.0 s, between knocks 2 and 3",
        ),
        (
            "0 7000/tcp; 1 8001/udp; 2 9000/tcp",
            "wrong_port",
            "the second knock went to 8001/udp; door ssh expects 8000/udp",
        ),
        (
            "0 7000/tcp; 1 8000/udp; 2 9001/tcp",
            "wrong_port",
            "the third knock went to 9001/tcp; door ssh expects 9000/tcp",
        ),
        (
            "0 7001/tcp; 1 8000/udp; 2 9000/tcp",
            "wrong_port",
            "the first knock went to 7001/tcp; door ssh expects 7000/tcp",
        ),
        # missing packets
        ("0 7000/tcp; 1 8000/udp", "last_missing", "only two of three knocks arrived: 9000/tcp is missing"),
        ("0 8000/udp; 1 9000/tcp", "first_missing", "only two of three knocks arrived: 7000/tcp is missing"),
        ("0 7000/tcp; 1 9000/tcp", "missing", "only two of three knocks arrived: 8000/udp is missing"),
        ("0 7000/tcp", "alone", "only one of three knocks arrived: 8000/udp and 9000/tcp are missing"),
        (
            "0 6001/tcp; 1 6002/tcp; 2 6005/tcp; 3 6006/tcp",
            "missing",
            "only four of six knocks arrived: 6003/tcp and 6004",
        ),
        (
            "0 7500/tcp; 1 7501/tcp",
            "repeat_missing",
            "door twin expects 7500/tcp twice in a row; it came once",
        ),
        # source addresses
        (
            "0 7000/tcp; 1 8000/udp from=192.0.2.8; 2 9000/tcp from=192.0.2.7",
            "split_addresses",
            "knock 2 from 192.0.2.8: two",
        ),
        (
            "0 7000/tcp; 1 8000/udp from=192.0.2.8; 2 9000/tcp from=192.0.2.9",
            "split_addresses",
            "knock 3 from 192.0.2.9: three",
        ),
        # after the knock
        (
            f"{GOOD}; 1 22/tcp sport=5; 1.1 <22/tcp SA sport=5; 1.2 22/tcp A sport=5",
            "connected",
            "came 980 ms later and was",
        ),
        (
            f"{GOOD}; 1 22/tcp sport=5; 1.2 22/tcp A sport=5",
            "connected_one_way",
            "success: door ssh opened, and the connection to 22",
        ),
        (f"{GOOD}; 1 22/tcp; 2 22/tcp", "unanswered", "to 22/tcp came 980 ms later, but nothing answered"),
        (f"{GOOD}; 1 22/tcp sport=5; 1.1 <22/tcp RA sport=5", "refused", "980 ms later, but 22/tcp refused it"),
        (f"{GOOD}; 1 22/tcp; 1.1 icmp=3/13", "rejected", "198.51.100.2 answered: prohibited"),
        (
            f"{GOOD}; 1 22/tcp sport=5; 1.1 <22/tcp SA sport=5; 2 22/tcp sport=5",
            "answer_lost",
            "the answer did not reach the client",
        ),
        (f"{GOOD}", "no_connection", "door ssh opened, but no connection to 22/tcp followed"),
        (
            "0 7701/tcp; 1 7702/tcp; 2 34/tcp sport=5; 3 34/tcp sport=5; 3.1 <34/tcp SA sport=5",
            "answer_lost",
            "to 34/tcp came 1.0 s later and was accepted",  # the SYN that was sent again is let in
        ),
        (
            "0 7701/tcp; 1 7702/tcp; 2 34/tcp sport=5; 2.1 <34/tcp SA sport=5; 3 34/tcp sport=6",
            "used",
            "opened for one connection, which came 1.0 s later from port 5; the one after it was dropped",
        ),
        (
            f"{GOOD}; 41 22/tcp",
            "too_late",
            "the connection to 22/tcp came 41.0 s after the knock; `for` of door ssh is 30s",
        ),
        (f"{GOOD}; 30.02 22/tcp", "too_late", "came 30.000 s after the knock; `for` of door ssh is 30s"),
        ("0 22/tcp; 1 7000/tcp; 1.1 8000/udp; 1.2 9000/tcp", "too_early", "22/tcp came 1.2 s before the last knock"),
        (f"{GOOD}; 1 2222/tcp", "other_port", "the connection went to 2222/tcp, which the door does not open (22/tcp)"),
        (f"{GOOD}; 1 443/tcp", "wrong_door", "went to 443/tcp, which door web opens"),
        (f"{GOOD}; 1 22/udp", "other_protocol", "the connection went to 22/udp; the door opens 22/tcp"),
        (
            f"{GOOD}; 1 22/tcp to=192.0.2.9",
            "connection_elsewhere",
            "the connection to 22/tcp went to 192.0.2.9, not to this",
        ),
        (
            f"{GOOD}; 1 22/tcp from=192.0.2.8",
            "other_address",
            "22/tcp came from 192.0.2.8, the knock from 192.0.2.7: two",
        ),
        ("0 7101/tcp; 1 7102/tcp; 2 443/udp", "connected_one_way", "the connection to 443/udp came 1.0 s later"),
        (
            "0 7101/tcp; 1 7102/tcp; 2 443/udp sport=5; 3 <443/udp sport=5",
            "connected",
            "to 443/udp came 1.0 s later and",
        ),
        ("0 4001/tcp to=192.0.2.77; 0.1 4002/tcp", "ran", "success: door wake opened and its command ran"),
        # no knock
        ("0 22/tcp", "no_knock", "no knock: 1 packet went to 22/tcp, and none to a port of a sequence"),
        ("0 22/tcp sport=5; 1 <22/tcp SA sport=5", "not_hidden", "no knock, yet 22/tcp answered"),
        (
            "0 1111/tcp; 1 2222/tcp; 2 3333/udp",
            "unknown_sequence",
            "went to a port of a door: 1111/tcp 2222/tcp 3333/udp",
        ),
        ("0 80/tcp", "nothing", "none of its packets was a knock"),
        ("0 62201/udp", "signed", "it sent to 62201/udp, for signed knocks, and no port sequence"),
        ("0 62201/udp; 1 22/tcp sport=5; 2 <22/tcp SA sport=5", "signed", "and no port sequence; 22/tcp answered it"),
        # the last attempt counts, even after a correct one
        ("0 7000/tcp; 1 8000/tcp; 2 9000/tcp; 60 7000/tcp; 61 8000/udp", "last_missing", "9000/tcp is missing"),
        ("0 7000/tcp; 1 8000/udp; 9 7000/tcp; 10 8443/tcp; 11 8000/udp; 12 9000/tcp", "stray", "a packet to 8443/tcp"),
        ("0 7000/tcp; 1 8000/udp; 9 7101/tcp; 10 7102/udp", "udp_for_tcp", "7102/udp; door web expects 7102/tcp"),
        (f"{GOOD}; 60 7000/tcp; 61 8000/udp", "last_missing", "9000/tcp is missing"),
        (
            "0 7000/tcp; 1 8000/tcp; 2 9000/tcp; 60 7000/tcp; 61 8000/udp; 62 9000/udp",
            "udp_for_tcp",
            "came as 9000/udp",
        ),
        ("0 7000/tcp; 60 7000/tcp; 61 8000/udp; 62 9000/tcp; 63 22/tcp", "unanswered", "door ssh opened"),
    ],
)
def test_diagnosis(text: str, kind: str, expected_text: str) -> None:
    diagnosis = concluded(CONFIG, script(text))
    assert diagnosis.fault.kind == kind, diagnosis
    assert expected_text in diagnosis.fault.what


SIX, RELATIVE = "2001:db8::7", "2001:db8::8"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (f"0 7000/tcp; 1 8000/udp from={SIX} to=2001:db8:2::2; 2 9000/tcp from={CLIENT} to={SERVER}", "split_families"),
        (f"{GOOD}; 1 22/tcp from={SIX} to=2001:db8:2::2", "other_family"),
    ],
)
def test_mixed_address_families(text: str, kind: str) -> None:
    for source in (CLIENT, ip_address(SIX)):
        assert concluded(CONFIG, script(text), source).fault.kind == kind


@pytest.mark.parametrize(
    ("opens", "port", "text"),
    [
        ('"192.0.2.77:22/tcp"', "22/tcp", "the knock was correct, but door a opens only IPv4 hosts"),
        ('"2222/tcp -> 192.0.2.77:22"', "2222/tcp", "the knock was correct, but door a opens only IPv4 hosts"),
        ('"2222/tcp -> 192.0.2.77:22", "80/tcp"', "2222/tcp", "door a opened, but 2222/tcp leads only to a host"),
    ],
)
def test_hosts_of_the_other_address_family(opens: str, port: str, text: str) -> None:
    config = compiled(f'[doors.a]\nknock = ["7000/tcp", "7001/tcp"]\nopens = [{opens}]\n')
    hosts = f"from={SIX} to=2001:db8:2::2"
    diagnosis = concluded(config, script(f"0 7000/tcp {hosts}; 1 7001/tcp {hosts}; 2 {port} {hosts}"), ip_address(SIX))
    assert diagnosis.fault.kind == "family"
    assert diagnosis.fault.what.startswith(text)
    assert diagnosis.opened == ("80" in opens)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (f"0 7000/tcp from={SIX}; 1 8000/udp from={RELATIVE}; 2 9000/tcp from={SIX}", "split_network"),
        (f"0 7000/tcp from={SIX}; 1 8000/udp; 2 9000/tcp; 3 22/tcp from={RELATIVE}", "other_in_network"),
    ],
)
def test_two_addresses_in_one_ipv6_network(text: str, kind: str) -> None:
    packets = script("0 1/tcp to=2001:db8:2::2 from=2001:db8:9::9; " + text)
    for source in (SIX, RELATIVE):
        assert concluded(CONFIG, packets, ip_address(source)).fault.kind == kind


def test_addresses_of_two_networks_are_not_one_client() -> None:
    packets = script(f"0 7000/tcp from={SIX} to=2001:db8:2::2; 1 8000/udp from=2001:db8:9::9; 2 9000/tcp from={SIX}")
    assert concluded(CONFIG, packets, ip_address(SIX)).fault.kind == "split_addresses"


def test_unrelated_sources_are_not_a_second_address() -> None:
    """A source with a complete knock, or with this source's own knocks, is unrelated; among many none is guessed."""
    complete = "; ".join(f"{GOOD} from=192.0.2.8".split("; ")[::-1])
    packets = script(f"{complete}; 0 7000/tcp from={CLIENT}; 1 9000/tcp")
    assert concluded(CONFIG, packets).fault.kind == "missing"
    crowd = "".join(f"; 0.5 8000/udp from=192.0.2.{number}" for number in range(10, 40))
    assert concluded(CONFIG, script(f"0 7000/tcp; 1 9000/tcp{crowd}")).fault.kind == "missing"
    visitors = "".join(f"; 1.{number} 22/tcp from=192.0.2.{number}" for number in range(10, 15))
    assert concluded(CONFIG, script(GOOD + visitors)).fault.kind == "no_connection"


def noise(count: int, since_s: float = 0.0) -> str:
    return "; ".join(f"{since_s + number * 0.001:.3f} {3000 + number}/tcp" for number in range(count))


def test_rate_limit_exceeded() -> None:
    text = f"{noise(45)}; 0.06 7000/tcp; 0.061 8000/udp; 0.062 9000/tcp"
    late = concluded(CONFIG, script(f"{noise(45)}; 0.046 7000/tcp; 0.047 8000/udp; 0.048 9000/tcp"))
    assert late.fault.kind == "too_fast"
    assert "rate limit exceeded: 46 knock packets within two seconds; the limit is 20/s (burst 40)" in late.fault.what
    assert concluded(CONFIG, script(text)).fault.kind == "too_fast"
    assert concluded(CONFIG, script(f"{noise(30)}; 0.06 7000/tcp; 0.061 8000/udp; 0.062 9000/tcp")).opened


def test_knock_within_a_scan() -> None:
    ports = "; ".join(f"{number * 0.2:.1f} {port}/tcp" for number, port in enumerate(range(6990, 7030)))
    assert concluded(CONFIG, script(ports)).fault.kind == "sweep"
    between = "; ".join(f"{1 + number * 0.1:.1f} {3000 + number}/tcp" for number in range(15))
    scan = concluded(CONFIG, script(f"0 7000/tcp; {between}; 3 8000/udp; 4 9000/tcp"))
    assert scan.fault.kind == "scan"
    assert scan.fault.what == "port scan: 15 other ports in 1.4 s between the knocks; a scan opens no door"


def test_secondary_faults_are_reported() -> None:
    diagnosis = concluded(CONFIG, script("0 7000/udp; 1 8443/tcp; 1.5 8000/udp; 9 9000/tcp"))
    assert diagnosis.fault.kind == "udp_for_tcp"
    assert [fault.kind for fault in diagnosis.also] == ["stray", "late"]


def test_intended_door() -> None:
    web_then_ssh = script("0 7101/tcp; 1 7102/tcp; 60 7000/tcp; 61 8000/udp")
    assert concluded(CONFIG, web_then_ssh).door == "ssh"
    about_web = concluded(CONFIG, web_then_ssh, door="web")
    assert (about_web.door, about_web.opened, about_web.fault.kind) == ("web", True, "no_connection")
    by_hand = concluded(CONFIG, web_then_ssh, door="hand")
    assert (by_hand.fault.kind, by_hand.opened) == ("no_sequence", False)


@pytest.mark.parametrize(
    ("gate", "text", "kind"),
    [
        ('wrong_port = "known"', "0 7000/tcp; 1 8443/tcp; 2 8000/udp; 3 9000/tcp", "no_connection"),
        ('wrong_port = "known"', "0 7000/tcp; 1 7101/tcp; 2 8000/udp; 3 9000/tcp", "other_door"),
        ('wrong_port = "known"', "0 7000/tcp; 1 8000/tcp; 2 9000/tcp", "tcp_for_udp"),
        ('public = ["443/tcp"]', "0 7000/tcp; 1 443/tcp; 2 8000/udp; 3 9000/tcp", "no_connection"),
        ('mode = "observe"', "0 22/tcp sport=5; 1 <22/tcp SA sport=5", "not_hidden"),
    ],
)
def test_gate_settings(gate: str, text: str, kind: str) -> None:
    doors = """
    [doors.ssh]
    knock = ["7000/tcp", "8000/udp", "9000/tcp"]
    opens = ["22/tcp"]
    [doors.web]
    knock = ["7101/tcp", "7102/tcp"]
    opens = ["23/tcp"]
    """
    assert concluded(compiled(f"[gate]\n{gate}\n{doors}"), script(text)).fault.kind == kind


def test_doors_with_shared_prefix_or_port() -> None:
    shared = compiled("""
    [doors.a]
    knock = ["1001/tcp", "1002/tcp", "1003/tcp"]
    opens = ["21/tcp"]
    [doors.b]
    knock = ["1001/tcp", "1002/tcp", "1004/tcp"]
    opens = ["22/tcp"]
    [doors.c]
    knock = ["1002/tcp", "1003/tcp"]
    opens = ["23/tcp"]
    """)
    diagnosis = concluded(shared, script("0 1001/tcp; 1 1002/tcp; 2 1004/tcp; 3 21/tcp"))
    assert (diagnosis.fault.kind, diagnosis.door) == ("wrong_door", "b")
    diagnosis = concluded(shared, script("0 1001/tcp; 1 1002/tcp; 2 1003/tcp; 3 23/tcp"), door="c")
    assert (diagnosis.door, diagnosis.opened) == ("c", True)
    assert concluded(shared, script("0 1001/tcp; 1 1002/udp; 2 1004/tcp")).door == "b"


@pytest.mark.parametrize("last", ["60 7000/tcp; 61 8000/udp", "60 7000/tcp; 61 8000/udp; 62 9000/udp"])
def test_earlier_opening_is_reported_after_a_failed_attempt(last: str) -> None:
    thrice = "; ".join(f"{at} 7000/tcp; {at}.1 8000/udp; {at}.2 9000/tcp" for at in (0, 10, 20))
    diagnosis = concluded(CONFIG, script(f"{thrice}; {last}"))
    assert (diagnosis.door, diagnosis.opened) == ("ssh", True)
    assert diagnosis.fault.what.startswith("door ssh opened 3 times; the last attempt did not open it: ")
    other = concluded(CONFIG, script(f"0 7101/tcp; 1 7102/tcp; {last}"))
    assert (other.door, other.opened) == ("ssh", True)
    assert other.fault.what.startswith("door web opened; the last attempt at door ssh did not open it: ")


def test_sources_shown() -> None:
    packets = script(f"{GOOD}; 1 80/tcp from=192.0.2.8; 2 22/tcp from=192.0.2.9; 3 5/tcp from=192.0.2.10")
    found = explained(CONFIG, packets)
    assert [str(ip_address(summary.trace.source)) for summary in found.sources] == ["192.0.2.7", "192.0.2.9"]
    assert (found.more_knocking, found.others) == (0, 2)
    crowd = script(GOOD + "".join(f"; 1 22/tcp from=10.0.0.{number}" for number in range(50)))
    found = explained(CONFIG, crowd)
    assert (len(found.sources), found.more_knocking) == (20, 31)
    assert found.sources[0].diagnosis.opened
    silent = explained(CONFIG, packets, source=ip_address("192.0.2.99"))
    assert [summary.diagnosis.fault.kind for summary in silent.sources] == ["silence"]
