"""Packets of fwknop's clients: what was put together is read back, and no other spelling of it opens anything."""

from __future__ import annotations

import hashlib
import string
from ipaddress import IPv4Address

from hypothesis import given
from hypothesis import strategies as st

from doorward.config.schema import FwknopStanza
from doorward.errors import MalformedError
from doorward.fwknop.authorizer import FwknopAuthorizer, StanzaKeys
from doorward.fwknop.spa_packet import MAX_PORTS, is_candidate, parse_plaintext
from doorward.model import Door, Port, Protocol, SecretBytes
from doorward.signed.authorize import ValidKnock, Verdict
from tests.support.fwknop import Keys, fields, unpadded

NOW_S = 1_800_000_000
SOURCE = IPv4Address("192.0.2.7")
SSH = Port.parse("22/tcp")
LETTERS = (string.ascii_letters + string.digits + "+/").encode()
PLAIN = st.text(string.printable, min_size=1, max_size=60)
ports = st.lists(
    st.builds(Port, st.sampled_from([Protocol.TCP, Protocol.UDP]), st.integers(1, 65535)),
    min_size=1, max_size=MAX_PORTS, unique=True,
)  # fmt: skip
keys = st.builds(
    Keys, st.binary(min_size=1, max_size=32), st.none() | st.binary(min_size=1, max_size=128), st.just("sha256")
)


def with_digest(text: str) -> str:
    return f"{text}:{unpadded(hashlib.sha256(text.encode()).digest())}"


def verdict(own: Keys, packet: bytes) -> Verdict:
    hmac = None if own.hmac is None else SecretBytes(own.hmac)
    stanza = FwknopStanza("alice", ("ssh",), insecure_no_hmac=hmac is None)
    doors = {"ssh": Door("ssh", (), (SSH,))}
    authorizer = FwknopAuthorizer([(stanza, StanzaKeys(SecretBytes(own.key), hmac))], doors, 120_000)
    return authorizer.authorize(packet, SOURCE.packed, NOW_S * 1000)


@given(ports, st.from_regex(r"[a-z_][a-z0-9_.-]{0,30}", fullmatch=True), st.integers(0, 99_999) | st.none())
def test_what_was_requested_is_read_back(requested: list[Port], user: str, for_s: int | None) -> None:
    message = ",".join([str(SOURCE), *(f"{port.protocol.name.lower()}/{port.number}" for port in requested)])
    more = [] if for_s is None else [str(for_s)]
    text = fields(message, *more, kind=1 if for_s is None else 3, user=user, time_s=NOW_S)
    found = parse_plaintext(with_digest(text))
    assert found == (user, NOW_S, SOURCE, tuple(requested), for_s or None)


@given(PLAIN | st.lists(PLAIN, max_size=11).map(":".join))
def test_any_text_is_a_request_or_malformed(text: str) -> None:
    try:
        found = parse_plaintext(with_digest(text))
    except MalformedError:
        return
    assert 1 <= len(found.ports) <= MAX_PORTS
    assert found.username.isprintable()


@given(keys, st.data())
def test_no_other_letters_open_what_a_packet_opens(own: Keys, data: st.DataObject) -> None:
    """Also without an HMAC: else a copy with another spelling would be a new packet to the replay cache."""
    packet = own.request(f"{SOURCE},tcp/22", time_s=NOW_S)
    assert is_candidate(packet)
    assert isinstance(verdict(own, packet), ValidKnock)
    at = data.draw(st.sampled_from([0, 1, len(packet) - 1]) | st.integers(0, len(packet) - 1))
    other = data.draw(st.sampled_from(LETTERS).filter(lambda letter: letter != packet[at]))
    for changed in (packet[:at] + bytes([other]) + packet[at + 1 :], packet + b"A", packet[:-1], packet + b"="):
        assert not isinstance(verdict(own, changed), ValidKnock)
