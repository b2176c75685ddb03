"""doorward:// links: written and read back; what is wrong with others."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorward.client.link_uri import MAX_DOORS, KnockLink, format_link, parse_link
from doorward.errors import MalformedError
from doorward.model import Port, Protocol

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
    st.none() | st.integers(1, 65535),
    st.just(KEY) | keys,
    st.none() | names,
    st.dictionaries(door_names, sequences, max_size=4).map(lambda doors: tuple(doors.items())),
)


@given(links)
def test_what_is_written_is_read_back(link: KnockLink) -> None:
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
    wanted = KnockLink("2001:db8::1", 62201, KEY, "paris", (("db", ()),))
    assert parse_link(text) == wanted
    assert parse_link(text.replace("%2B", "+")) == wanted  # a plus is a plus, whatever browsers say
    assert parse_link(text.replace("/?", "?")) == wanted
    assert parse_link(f" {text}\n") == wanted


def test_a_link_with_sequences_only() -> None:
    link = parse_link("doorward://192.0.2.7/?seq=ssh:7000/tcp,8000:UDP&seq=web:1/tcp")
    ssh, web = (Port.parse("7000/tcp"), Port.parse("8000/udp")), (Port.parse("1/tcp"),)
    assert link == KnockLink("192.0.2.7", doors=(("ssh", ssh), ("web", web)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it is no link; one begins with doorward://HOST/?key="),
        ("https://h/?key=x", "it is no link"),
        ("doorward://h", "it is no link"),
        ("doorward:///?key=x", "it is no link"),
        ("doorward://h/path?key=x", "it is no link"),
        ("doorward://h/?" + "a" * 9000, "a link of 9014 characters; it has at most 8192"),
        ("doorward://u@h/?key=x", "'u@h' is no host with a port in the link"),
        ("doorward://h:99999/?key=x", "port 99999 does not exist"),
        ("doorward://h:0/?key=x", "port 0 does not exist"),
        ("doorward://[::g]/?key=x", "'[::g]' is no IPv6 address in the link"),
        ("doorward://h%20x/?key=x", "'h x' is no host's name in the link"),
        ("doorward://b\u00fccher/?key=x", "a letter that is not ASCII in the link, where such"),
        ("doorward://\udc80/?key=x", "a letter that is not ASCII in the link"),
        ("doorward://h%1b/?key=x", "is no host's name in the link"),
        ("doorward://h/?key", "'key' has no = in the link"),
        ("doorward://h/?key=%zz", "a % without two hexadecimal digits in the link"),
        ("doorward://h/?key=%ff", "bytes that are no UTF-8 in the link"),
        ("doorward://h/?key=foo", "'foo' is no server key in the link"),
        (f"doorward://h/?key={KEY}&key={KEY}", "key stands twice in the link"),
        (f"doorward://h/?key={KEY}&gate=a%20b", "'a b' is no gate's name in the link"),
        (f"doorward://h/?key={KEY}&door=22", "'22' is no door's name in the link"),
        (f"doorward://h/?key={KEY}&door=a&seq=a:1/tcp", "door a stands twice in the link"),
        (f"doorward://h/?key={KEY}&doors=a", "'doors' is nothing that a link says; it knows key, gate, door and seq"),
        ("doorward://h/?seq=a:1/tcp,x", "invalid port 'x'; write it as 7000/tcp or 7000/udp"),
        ("doorward://h/?seq=a", "invalid port ''"),
        ("doorward://h/?seq=a:" + ",".join(["1/tcp"] * 33), "a sequence of 33 ports; it has at most 32"),
        ("doorward://h/?gate=a", "neither key nor seq stands in the link: there is nothing to knock with"),
        ("doorward://h/?seq=a:1/tcp&door=b", "a door without a sequence needs the server's key; key= is missing"),
        (f"doorward://h/?key={KEY}" + "".join(f"&door=d{n}" for n in range(MAX_DOORS + 1)), "more than 64 doors"),
    ],
)  # fmt: skip
def test_each_fault_has_a_message(text: str, message: str) -> None:
    with pytest.raises(MalformedError) as raised:
        parse_link(text)
    assert message in str(raised.value)
