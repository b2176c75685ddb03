"""doorward:// links: round trip, and errors of invalid links."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorward.client.link_uri import MAX_DOORS, KnockLink, format_link, parse_link
from doorward.errors import MalformedError
from doorward.model import DEFAULT_SIGNED_PORT, MAX_SIGNED_PORTS, Port, Protocol

KEY = "x25519:+UrKERB5fruNM8XrTUGOZyfw+C2s9F7Kg+yySCReZU8="
names = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)
door_names = names.filter(lambda name: not name.isdigit())
hosts = (
    st.from_regex(r"[a-z0-9-]{1,30}(\.[a-z0-9-]{1,30}){0,3}", fullmatch=True)
    | st.ip_addresses().map(str)
    | st.just("b\u00fccher.example")
)
sequences = st.lists(st.builds(Port, st.sampled_from(Protocol), st.integers(1, 65535)), max_size=32).map(tuple)
keys = st.sampled_from([b"\xfb" * 32, bytes(range(256)) * 4 + bytes(192)]).map(
    lambda raw: "mlkem768-x25519:" + base64.b64encode(raw).decode()
)
links = st.builds(
    KnockLink,
    hosts,
    st.lists(st.integers(1, 65535), max_size=MAX_SIGNED_PORTS, unique=True).map(
        lambda numbers: tuple(Port(Protocol.UDP, number) for number in numbers)
    ),
    st.just(KEY) | keys,
    st.none() | names,
    st.dictionaries(door_names, sequences, max_size=4).map(lambda doors: tuple(doors.items())),
    st.booleans(),
)


@given(links)
def test_link_round_trip(link: KnockLink) -> None:
    text = format_link(link)
    assert parse_link(text) == link
    assert text.isascii()
    assert not set(text) & set(" '\"\\<>^`{|}")  # safe in single quotes, and for who marks it with a double click


@given(links, st.integers(0, 3000), st.text(max_size=3))
def test_a_damaged_link_is_a_link_or_malformed(link: KnockLink, place: int, noise: str) -> None:
    text = format_link(link)
    at = place % (len(text) + 1)
    for damaged in (text[:at], text[at:], text[:at] + noise + text[at + len(noise) :]):
        try:
            found = parse_link(damaged)
        except MalformedError:
            continue
        assert parse_link(format_link(found)) == found


def test_a_link_by_hand() -> None:
    text = "DOORWARD://[2001:db8::1]:62201/?key=x25519:%2BUrKERB5fruNM8XrTUGOZyfw%2BC2s9F7Kg%2ByySCReZU8=&gate=paris&door=db"
    wanted = KnockLink("2001:db8::1", (DEFAULT_SIGNED_PORT,), KEY, "paris", (("db", ()),))
    assert parse_link(text) == wanted
    assert parse_link(text.replace("%2B", "+")) == wanted  # a plus is a plus, whatever browsers say
    assert parse_link(text.replace("/?", "?")) == wanted
    assert parse_link(f" {text}\n") == wanted


def test_several_ports_for_signed_knocks() -> None:
    text = f"doorward://h:62201/?key={KEY}&ports=443,53&door=db"
    link = parse_link(text)
    assert list(map(str, link.signed_ports)) == ["62201/udp", "443/udp", "53/udp"]
    assert format_link(link) == text.replace("+", "%2B")


def test_a_link_with_sequences_only() -> None:
    link = parse_link("doorward://192.0.2.7/?seq=ssh:7000/tcp,8000:UDP&seq=web:1/tcp")
    ssh, web = (Port.parse("7000/tcp"), Port.parse("8000/udp")), (Port.parse("1/tcp"),)
    assert link == KnockLink("192.0.2.7", doors=(("ssh", ssh), ("web", web)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a doorward link; links begin with doorward://HOST/?key="),
        ("https://h/?key=x", "not a doorward link"),
        ("doorward://h", "not a doorward link"),
        ("doorward:///?key=x", "not a doorward link"),
        ("doorward://h/path?key=x", "not a doorward link"),
        ("doorward://h/?" + "a" * 9000, "the link has 9014 characters; the limit is 8192"),
        ("doorward://u@h/?key=x", "invalid host or port 'u@h' in the link"),
        (f"doorward://h:99999/?key={KEY}", "port 99999 does not exist; write a number from 1 to 65535"),
        (f"doorward://h:0/?key={KEY}", "port 0 does not exist; write a number from 1 to 65535"),
        ("doorward://[::g]/?key=x", "invalid IPv6 address '[::g]' in the link"),
        ("doorward://h%20x/?key=x", "invalid host name 'h x' in the link"),
        ("doorward://b\u00fccher/?key=x", "the link contains non-ASCII characters"),
        ("doorward://\udc80/?key=x", "the link contains non-ASCII characters"),
        ("doorward://h%1b/?key=x", "invalid host name"),
        ("doorward://h/?key", "'key' has no = in the link"),
        ("doorward://h/?key=%zz", "invalid percent-encoding in the link"),
        ("doorward://h/?key=%ff", "the link is not valid UTF-8"),
        ("doorward://h/?key=foo", "invalid server key 'foo' in the link"),
        (f"doorward://h/?key={KEY}&key={KEY}", "key appears twice in the link"),
        (f"doorward://h/?key={KEY}&gate=a%20b", "invalid gate name 'a b' in the link"),
        (f"doorward://h/?key={KEY}&door=22", "invalid door name '22' in the link"),
        (f"doorward://h/?key={KEY}&door=a&seq=a:1/tcp", "door a appears twice in the link"),
        (
            f"doorward://h/?key={KEY}&doors=a",
            "unknown field 'doors' in the link; known fields: key, ports, gate, confirm, door, seq",
        ),
        (f"doorward://h/?key={KEY}&ports=53", "ports= follows the port after the host, which is missing in the link"),
        (f"doorward://h:1/?key={KEY}&ports=", "invalid list of ports '' in the link"),
        (f"doorward://h:1/?key={KEY}&ports=53/udp", "invalid list of ports '53/udp' in the link"),
        (f"doorward://h:1/?key={KEY}&ports=2,1", "duplicate port 1/udp; write it once"),
        (f"doorward://h:1/?key={KEY}&ports=2,0", "port 0 does not exist; write a number from 1 to 65535"),
        (f"doorward://h:1/?key={KEY}&ports=2,3,4,5,6,7,8,9", "9 ports for signed knocks; write 1 to 8"),
        (f"doorward://h:1/?key={KEY}&ports=2&ports=3", "ports appears twice in the link"),
        ("doorward://h/?seq=a:1/tcp,x", "invalid port 'x'; write it as 7000/tcp or 7000/udp"),
        ("doorward://h/?seq=a", "invalid port ''"),
        ("doorward://h/?seq=a:" + ",".join(["1/tcp"] * 33), "a sequence of 33 ports; the limit is 32"),
        ("doorward://h/?gate=a", "the link has neither key= nor seq=, so there is nothing to knock with"),
        ("doorward://h/?seq=a:1/tcp&door=b", "a door without a sequence needs the server's key; key= is missing"),
        (f"doorward://h/?key={KEY}" + "".join(f"&door=d{n}" for n in range(MAX_DOORS + 1)), "more than 64 doors"),
    ],
)  # fmt: skip
def test_each_fault_has_a_message(text: str, message: str) -> None:
    with pytest.raises(MalformedError) as raised:
        parse_link(text)
    assert message in str(raised.value)
