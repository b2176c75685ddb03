"""What a packet of fwknop's opens: its stanza decides, and no other."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest

from doorward.config.schema import FwknopStanza, Hmac
from doorward.daemon.verifier import VerifierQueue
from doorward.fwknop.authorizer import FwknopAuthorizer, StanzaKeys
from doorward.kernel.nflog import LoggedDatagram
from doorward.model import Door, HostPort, Port, PortRange, Protocol, Redirect, SecretBytes
from doorward.packets.packet import UdpDatagram
from doorward.signed.authorize import KnockRejection, ValidKnock, Verdict, signer_text
from tests.support.fwknop import Keys

NOW_S = 1_800_000_000
GUEST = IPv4Address("192.0.2.7")
ELSEWHERE = IPv4Address("203.0.113.9")
BEHIND = HostPort(Protocol.TCP, 22, IPv4Address("10.7.0.2"))
SSH, WEB, BOTH = Port.parse("22/tcp"), Port.parse("80/tcp"), Port.parse("443/tcp")
DOORS = {
    "ssh": Door("ssh", (), (SSH,)),
    "web": Door("web", (), (WEB,)),
    "tls": Door("tls", (), (WEB, BOTH)),
    "run": Door("run", (), (), on_open=("true",)),
    "range": Door("range", (), (), ranges=(PortRange(Protocol.TCP, 22, 30),)),
    "behind": Door("behind", (), (), behind=(BEHIND,)),
    "forward": Door("forward", (), (SSH,), redirects=(Redirect(SSH, BEHIND),)),
}
ALICE, BOB = Keys.random(), Keys.random("sha512")
STANZA = FwknopStanza("alice", ("ssh", "web"))


def authorizer(*stanzas: tuple[FwknopStanza, Keys], shared: frozenset[str] = frozenset()) -> FwknopAuthorizer:
    keyed = [
        (stanza, StanzaKeys(SecretBytes(own.key), None if own.hmac is None else SecretBytes(own.hmac)))
        for stanza, own in stanzas
    ]
    return FwknopAuthorizer(keyed, DOORS, 120_000, shared)


def verdict(
    message: str = f"{GUEST},tcp/22",
    *more: str,
    stanza: FwknopStanza = STANZA,
    kind: int = 1,
    user: str = "alice",
    ahead_s: int = 0,
    source: IPv4Address = GUEST,
) -> Verdict:
    packet = ALICE.request(message, *more, kind=kind, user=user, time_s=NOW_S + ahead_s)
    return authorizer((stanza, ALICE)).authorize(packet, source.packed, NOW_S * 1000)


def test_a_valid_packet() -> None:
    knock = verdict()
    assert isinstance(knock, ValidKnock)
    assert (knock.door, knock.source, knock.for_ms, knock.also) == ("ssh", GUEST, 30_000, ())
    assert (knock.time_ms, knock.is_shared, knock.reply) == (NOW_S * 1000, False, None)
    assert signer_text(knock) == "fwknop alice"


@pytest.mark.parametrize(
    ("doors", "ports", "requested", "opened"),
    [
        (("ssh", "web"), (), "tcp/22", ["ssh"]),
        (("ssh", "web"), (), "tcp/80,tcp/22", ["ssh", "web"]),
        (("ssh", "web"), (), "tcp/22,tcp/443", []),
        (("ssh",), (), "udp/22", []),
        (("tls",), (), "tcp/80", []),  # the door opens another port too
        (("tls",), (), "tcp/443,tcp/80", ["tls"]),
        (("ssh", "tls"), (), "tcp/22,tcp/80", []),
        (("run",), (SSH,), "tcp/22", ["run"]),
        (("run",), (SSH,), "tcp/80", []),
        (("ssh", "range", "behind"), (), "tcp/22", ["ssh"]),
        (("range", "behind"), (SSH,), "tcp/22", []),
        (("forward", "web"), (), "tcp/22", ["forward"]),
    ],
)
def test_the_ports_choose_the_doors(
    doors: tuple[str, ...], ports: tuple[Port, ...], requested: str, opened: list[str]
) -> None:
    found = verdict(f"{GUEST},{requested}", stanza=replace(STANZA, doors=doors, ports=ports))
    assert ([found.door, *found.also] if isinstance(found, ValidKnock) else []) == opened


@pytest.mark.parametrize(
    ("changes", "requested_s", "for_s"),
    [
        ({}, 77, 77),
        ({}, 4000, 300),
        ({"for_ms": 60_000}, 0, 60),
        ({"for_ms": 60_000, "for_max_ms": 45_000}, 0, 45),
    ],
)
def test_for_how_long(changes: dict[str, int], requested_s: int, for_s: int) -> None:
    found = verdict(f"{GUEST},tcp/22", str(requested_s), kind=3, stanza=replace(STANZA, **changes))  # type: ignore[arg-type]
    assert isinstance(found, ValidKnock)
    assert found.for_ms == for_s * 1000


@pytest.mark.parametrize(
    ("stanza", "fields", "reason"),
    [
        (STANZA, {"ahead_s": 121}, "clock"),
        (STANZA, {"ahead_s": -121}, "clock"),
        (replace(STANZA, username="bob"), {}, "forbidden"),
        (replace(STANZA, expires_s=NOW_S), {}, "forbidden"),
        (STANZA, {"message": "0.0.0.0,tcp/22"}, "forbidden"),
        (STANZA, {"message": f"{GUEST},id", "kind": 0}, "forbidden"),
        (replace(STANZA, sources=(IPv4Network("203.0.113.0/24"),)), {}, "fwknop"),
        (replace(STANZA, hmac=Hmac.SHA512), {}, "fwknop"),
    ],
)
def test_rejections(stanza: FwknopStanza, fields: dict[str, str | int], reason: str) -> None:
    found = verdict(stanza=stanza, **fields)  # type: ignore[arg-type]
    assert isinstance(found, KnockRejection)
    assert found.reason == reason


@pytest.mark.parametrize(
    "stanza",
    [
        replace(STANZA, username="alice"),
        replace(STANZA, expires_s=NOW_S + 1),
        replace(STANZA, sources=(IPv4Network("192.0.2.0/24"),)),
    ],
)
def test_what_a_stanza_requires_and_the_packet_has(stanza: FwknopStanza) -> None:
    assert isinstance(verdict(stanza=stanza, ahead_s=-120), ValidKnock)


def test_without_an_address_the_sender_counts() -> None:
    found = verdict("0.0.0.0,tcp/22", stanza=replace(STANZA, require_source_address=False), source=ELSEWHERE)
    assert isinstance(found, ValidKnock)
    assert found.source == ELSEWHERE


def test_the_first_stanza_that_accepts_counts() -> None:
    """As at fwknopd, a stanza that rejects leaves the packet to the next with the same keys."""
    both = authorizer(
        (FwknopStanza("bob", ("ssh",), hmac=Hmac.SHA512), BOB),
        (FwknopStanza("first", ("web",)), ALICE),
        (FwknopStanza("second", ("ssh",)), ALICE),
    )
    for own, message, name in (
        (ALICE, "tcp/22", "second"),
        (ALICE, "tcp/80", "first"),
        (BOB, "tcp/22", "bob"),
        (ALICE, "tcp/22", "second"),
    ):
        found = both.authorize(own.request(f"{GUEST},{message}", time_s=NOW_S), GUEST.packed, NOW_S * 1000)
        assert isinstance(found, ValidKnock)
        assert found.key == name
    found = both.authorize(ALICE.request(f"{GUEST},tcp/443", time_s=NOW_S), GUEST.packed, NOW_S * 1000)
    assert isinstance(found, KnockRejection)
    assert "first" in found.words


def test_a_copy_from_elsewhere_does_not_spoil_the_packet() -> None:
    """From there only a stanza with another key and the same HMAC key is tried."""
    other = ALICE._replace(key=BOB.key)
    elsewhere = FwknopStanza("bob", ("ssh",), sources=(IPv4Network(ELSEWHERE),))
    gate = authorizer((elsewhere, other), (replace(STANZA, sources=(IPv4Network(GUEST),)), ALICE))
    packet = ALICE.request(f"{GUEST},tcp/22", time_s=NOW_S)
    queue = VerifierQueue(gate, gate, 62201)
    copy, real = (
        LoggedDatagram(UdpDatagram(source.packed, 40_000, GUEST.packed, 62201, packet), 2)
        for source in (ELSEWHERE, GUEST)
    )
    (report,) = queue.run([copy], NOW_S, 0.0)
    assert [each.refused.reason for each in report.refused] == ["forbidden"]
    (report,) = queue.run([real], NOW_S, 0.0)
    assert [knock.source for knock in report.knocks] == [GUEST]


class NeverLookedUp(IPv4Network):
    def __contains__(self, other: object) -> bool:
        raise AssertionError


def test_a_stranger_does_not_choose_how_many_networks_are_looked_up() -> None:
    sources = (NeverLookedUp("203.0.113.0/24"),)
    bare = ALICE._replace(hmac=None)
    gate = authorizer(
        (replace(STANZA, sources=sources), ALICE),
        (FwknopStanza("bob", ("ssh",), sources=sources, insecure_no_hmac=True), bare),
    )
    for keys in (Keys.random(), Keys.random()._replace(hmac=None)):
        packet = keys.request(f"{GUEST},tcp/22", time_s=NOW_S)
        assert gate.authorize(packet, GUEST.packed, NOW_S * 1000) == KnockRejection("fwknop", kind="fwknop packet")


def test_without_hmac() -> None:
    bare = ALICE._replace(hmac=None)
    with_hmac = FwknopStanza("bob", ("ssh",), hmac=Hmac.SHA512)
    gate = authorizer((replace(STANZA, insecure_no_hmac=True), bare), (with_hmac, BOB))
    for own, name in ((bare, "alice"), (BOB, "bob")):
        found = gate.authorize(own.request(f"{GUEST},tcp/22", time_s=NOW_S), GUEST.packed, NOW_S * 1000)
        assert isinstance(found, ValidKnock)
        assert found.key == name
    stranger = Keys.random()._replace(hmac=None).request(f"{GUEST},tcp/22", time_s=NOW_S)
    assert gate.authorize(stranger, GUEST.packed, NOW_S * 1000) == KnockRejection("fwknop", kind="fwknop packet")


def test_the_number_does_not_depend_on_the_stanza() -> None:
    """Else a packet could be used again once its stanza has another name."""
    packet = ALICE.request(f"{GUEST},tcp/22", time_s=NOW_S)
    found = [
        authorizer((replace(STANZA, name=name), ALICE)).authorize(packet, GUEST.packed, NOW_S * 1000)
        for name in ("alice", "carol")
    ]
    assert len({knock.id for knock in found if isinstance(knock, ValidKnock)}) == 1


def test_a_shared_door_is_claimed_for_the_fleet() -> None:
    packet = ALICE.request(f"{GUEST},tcp/22,tcp/80", time_s=NOW_S)
    gate = authorizer((STANZA, ALICE), shared=frozenset({"web"}))
    found = gate.authorize(packet, GUEST.packed, NOW_S * 1000)
    assert isinstance(found, ValidKnock)
    assert found.is_shared
