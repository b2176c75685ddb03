"""Signed knocks: the real daemon, real packets, and everything that somebody may send instead."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from ipaddress import ip_network
from pathlib import Path

import pytest

from doorward.lab.topology import Lab
from doorward.model import Element, Port
from doorward.nftables.chains import SIGNED_CALM_BURST
from doorward.packets.datalink import strip_link_header
from doorward.packets.packet import parse_udp
from doorward.signed.message import CERTIFICATE, PACKET_BYTES, pack_body, signer_hash
from doorward.signed.server_key import HYBRID
from tests.support import ssh_keygen
from tests.support.daemon import DOORWARD, FIRST_SYN_S, Visitor, until
from tests.support.service_user import children_of, status_of
from tests.support.signed import HAS_HYBRID, PORT, Signer, sealed
from tests.support.signed_site import SignedSite
from tests.support.tcpdump import tcpdump

pytestmark = pytest.mark.netns("nft", "knock")

SSH = Port.parse("22/tcp")
CONFIG = """
[gate]
mode = "{mode}"
[signed]
[doors.ssh]
opens = ["22/tcp"]
for = "10m"
[doors.db]
knock = ["7001/tcp", "7002/udp", "7003/tcp"]
opens = ["5432/tcp"]
"""


class Site(SignedSite):
    """A server with a door for signed knocks, and one for a sequence too."""

    def __init__(self, lab: Lab, folder: Path, mode: str = "stealth") -> None:
        super().__init__(lab, folder, CONFIG.format(mode=mode))

    def knock(self, visitor: Visitor, door: str = "ssh", **fields: object) -> bytes:
        packet = self.laptop.packet(self.files.server, door, **fields)
        self.send(visitor, packet)
        return packet

    def refusal(self, visitor: Visitor) -> str:
        """Wait until this visitor is refused, and say why."""
        reason: str = self.daemon.event("refused", address=str(visitor))["reason"]
        return reason

    def in_after(self, visitor: Visitor) -> bool:
        """Tell whether the visitor is let in, once the daemon has said what it made of the packet."""
        self.daemon.event("opened", address=str(visitor))
        return visitor.gets_in()


@pytest.fixture(scope="module")
def standing_site(module_lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    module_lab.server.start_greeter(22)
    site = Site(module_lab, tmp_path_factory.mktemp("gate"))
    with site.running():
        yield site


@pytest.fixture
def site(standing_site: Site) -> Site:
    standing_site.renew()
    return standing_site


@pytest.fixture
def lone(direct_lab: Lab, tmp_path: Path) -> Iterator[Site]:
    """Run a daemon for this test alone: it counts what arrives, or ends processes."""
    direct_lab.server.start_greeter(22)
    site = Site(direct_lab, tmp_path)
    with site.running():
        yield site


def send_and_connect(site: Site, visitor: Visitor, packet: bytes) -> socket.socket:
    """Send a packet and connect, with nothing between but the time that the first SYN has."""
    site.send(visitor, packet)
    site.daemon.event("opened", address=str(visitor))
    return visitor.connect(timeout_s=FIRST_SYN_S)


@pytest.mark.parametrize("version", [4, 6])
def test_a_signed_knock_opens_its_door_for_its_sender(site: Site, version: int) -> None:
    guest, stranger = site.visitors.crowd(version, 2)
    assert not guest.gets_in()
    send_and_connect(site, guest, site.laptop.packet(site.files.server)).close()
    assert not stranger.gets_in()
    (opening,) = site.daemon.openings()
    assert (opening["door"], opening["address"], opening["by"]) == ("ssh", str(guest), "key laptop")
    assert site.daemon.elements().keys() == {guest.element()}


@pytest.mark.skipif(not HAS_HYBRID, reason="cryptography is older than 48")
def test_the_hybrid_suite(direct_lab: Lab, tmp_path: Path) -> None:
    direct_lab.server.start_greeter(22)
    site = Site(direct_lab, tmp_path)
    site.files.new_key(HYBRID)
    with site.running():
        guest = site.visitors.fresh(4)
        packet = site.knock(guest)
        assert len(packet) == 1372
        assert site.in_after(guest)


@pytest.mark.parametrize("mode", ["observe", "guard"])
def test_the_other_modes(direct_lab: Lab, tmp_path: Path, mode: str) -> None:
    site = Site(direct_lab, tmp_path, mode)
    with site.running():
        guest = site.visitors.fresh(4)
        site.knock(guest)
        site.daemon.event("opened", address=str(guest))
        assert guest.element() in site.daemon.elements()


def test_a_door_may_have_both(site: Site) -> None:
    first, second = site.visitors.crowd(4, 2)
    site.knock(first, "db")
    site.daemon.event("opened", door="db", address=str(first), by="key laptop")
    second.knock("7001", "7002:udp", "7003")
    site.daemon.event("opened", door="db", address=str(second), by="knock")


def test_a_packet_is_good_once(site: Site) -> None:
    guest, thief = site.visitors.crowd(4, 2)
    packet = site.knock(guest)
    site.daemon.event("opened", address=str(guest))
    site.send(guest, packet)
    assert "copy of an earlier packet" in site.refusal(guest)
    site.send(thief, packet)
    assert "copy of an earlier packet" in site.refusal(thief)
    for number in (signal.SIGTERM, signal.SIGKILL):
        site.daemon.end(number)
        site.daemon.start()
        site.daemon.message("accepting signed knocks")
        site.send(thief, packet)
        assert "it was used already" in site.refusal(thief)
        site.send(guest, packet)
        assert "copy of an earlier packet" in site.refusal(guest)
    assert {opening["address"] for opening in site.daemon.openings()} == {str(guest)}
    assert not thief.gets_in()


@pytest.mark.netns("tcpdump")
def test_what_tcpdump_captured_is_refused_wherever_it_comes_from(site: Site) -> None:
    """Of the client's own packet: from the same address and another, at once, after a restart, after a kill."""
    guest, thief = Visitor(site.lab.client, site.lab.client.ipv4, site.lab.server.ipv4), site.visitors.fresh(4)
    private = ssh_keygen.key("ed25519")
    site.files.authorize(ssh_keygen.public_line(private))
    site.daemon.message("accepting signed knocks")
    knock = [*DOORWARD, "knock", guest.server, "ssh", "--server-key", site.files.server.public, "--identity", private]
    with tcpdump(site.lab.server, "-i", "eth0", "udp", "port", "62201") as capture:
        site.lab.client.run(knock, env={"HOME": "/nonexistent", "SSH_AUTH_SOCK": ""})
        (frame,) = capture.await_frames(1)
    source, _, _, _, packet = parse_udp(strip_link_header(frame.link, frame.data).packet)
    assert source == guest.source.packed
    site.daemon.event("opened", address=str(guest))
    refused = []
    for sender in (guest, thief):
        site.send(sender, packet)
        refused.append(site.refusal(sender))
    for number in (signal.SIGTERM, signal.SIGKILL):
        site.daemon.end(number)
        site.daemon.start()
        site.daemon.message("accepting signed knocks")
        for sender in (thief, guest):
            site.send(sender, packet)
            refused.append(site.refusal(sender))
    assert ["used already" in words for words in refused] == [False, False, True, False, True, False]
    assert all("copy of an earlier packet" in words for words in refused if "used already" not in words)
    assert [opening["address"] for opening in site.daemon.openings()] == [str(guest)]


def test_the_same_words_sealed_again_are_used_already(site: Site) -> None:
    """The sender's own program may seal twice what it signed once; so may whoever has the server's private key."""
    guest, other = site.visitors.crowd(4, 2)
    body = pack_body(site.laptop.request())
    signature = site.laptop.sign(site.files.server, body)
    site.send(guest, sealed(site.files.server, body, signature))
    site.daemon.event("opened", address=str(guest))
    site.send(other, sealed(site.files.server, body, signature))
    assert "it was used already" in site.refusal(other)


def test_wrong_clock_is_logged_for_the_operator(site: Site) -> None:
    late, early, right = site.visitors.crowd(4, 3)
    site.knock(late, ahead_ms=-(4 * 3600 + 2 * 60) * 1000)
    assert "the packet from key laptop is 4h 2m behind; correct the client's clock" in site.refusal(late)
    site.knock(early, ahead_ms=61_300)
    assert "is 1m 1s ahead" in site.refusal(early)
    site.knock(right, ahead_ms=50_000)
    assert site.in_after(right)


def test_key_without_permission_is_rejected_with_the_reason(site: Site) -> None:
    stranger, other_gate, no_door, forger = site.visitors.crowd(4, 4)
    site.send(stranger, Signer("stranger").packet(site.files.server))
    assert "does not list the key SHA256:" in site.refusal(stranger)
    site.knock(other_gate, gate="another")
    assert "key laptop requested an unknown door, or a door of another gate" in site.refusal(other_gate)
    site.knock(no_door, "sesame")
    assert "key laptop requested an unknown door, or a door of another gate" in site.refusal(no_door)
    body = pack_body(site.laptop.request())
    site.send(forger, sealed(site.files.server, body, Signer().sign(site.files.server, body)))
    assert "bad signature by key laptop" in site.refusal(forger)
    assert site.daemon.openings() == []


def test_what_a_line_says_holds(site: Site) -> None:
    inside, outside, asking = site.visitors.crowd(4, 3)
    site.files.authorize(f'doors="ssh",from="{inside}",for-max="1m" {site.laptop.line}')
    site.daemon.message("accepting signed knocks")
    site.knock(outside)
    assert f"may not knock from {outside}" in site.refusal(outside)
    site.knock(inside, "db")
    assert "may not open the door db" in site.refusal(inside)
    site.knock(inside, asked=asking.source)
    assert f"may not request an opening for {asking}" in site.refusal(inside)
    site.knock(inside, asked=inside.source, for_s=3600)
    site.daemon.event("opened", address=str(inside))
    assert 50 < site.daemon.elements()[inside.element()] <= 60


def test_a_copy_from_a_forbidden_place_does_not_spoil_the_packet(site: Site) -> None:
    inside, outside = site.visitors.crowd(4, 2)
    site.files.authorize(f'from="{inside}" {site.laptop.line}')
    site.daemon.message("accepting signed knocks")
    packet = site.laptop.packet(site.files.server)
    for _ in range(2):
        site.send(outside, packet)
    assert f"may not knock from {outside}" in site.refusal(outside)
    assert "copy of an earlier packet" in site.refusal(outside)
    site.send(inside, packet)
    assert site.in_after(inside)
    site.send(inside, packet)
    assert "copy of an earlier packet" in site.refusal(inside)
    assert not outside.gets_in()


def test_a_revoked_key_and_an_expired_one(site: Site) -> None:
    guest = site.visitors.fresh(4)
    site.files.authorize(f'expiry-time="20200101Z" {site.laptop.line}')
    site.daemon.message("accepting signed knocks")
    site.knock(guest)
    assert "expired on" in site.refusal(guest)
    site.files.authorize(Signer("other").line, "this is no key")
    assert "authorized_keys:2: " in site.daemon.message("authorized_keys:2:")["message"]
    site.daemon.message("accepting signed knocks")
    site.knock(guest)
    assert "does not list the key SHA256:" in site.refusal(guest)
    site.files.authorize(site.laptop.line)
    site.daemon.message("accepting signed knocks")
    site.knock(guest)
    assert site.in_after(guest)


def test_without_its_files_nothing_is_taken(lone: Site) -> None:
    lone.files.keys_file.unlink()
    assert "no such file" in lone.daemon.message("no signed knock is accepted")["message"]
    lone.files.authorize(lone.laptop.line)
    lone.daemon.message("accepting signed knocks")
    lone.files.key_file.chmod(0o644)
    assert "other users can read the server's key" in lone.daemon.message("no signed knock is accepted")["message"]
    lone.files.key_file.chmod(0o600)
    lone.daemon.message("accepting signed knocks")


def test_a_network_that_may_be_asked_for(site: Site) -> None:
    asker, neighbour = site.visitors.crowd(4, 2)
    network = ip_network(f"{asker}/24", strict=False)
    site.files.authorize(f'addresses="{network}" {site.laptop.line}')
    site.daemon.message("accepting signed knocks")
    assert not neighbour.gets_in()
    site.knock(asker, asked=network)
    site.daemon.event("opened", address=str(network))
    assert site.daemon.elements().keys() == {Element(network, SSH)}
    assert neighbour.gets_in()
    assert asker.gets_in()
    site.daemon.end(signal.SIGKILL)
    site.daemon.start()
    site.daemon.message("accepting signed knocks")
    assert site.daemon.openings()[0]["address"] == str(network)
    site.daemon.host.run(["nft", "flush ruleset"])
    site.daemon.message("changed the gate; restored")
    assert neighbour.gets_in()
    site.daemon.run("close", "ssh", network)
    assert not neighbour.gets_in()


def test_a_bit_changed_at_any_place_and_a_cut_at_any_length(lone: Site) -> None:
    guest = lone.visitors.fresh(4)
    crowd = lone.visitors.crowd(4, 200)
    packet = lone.laptop.packet(lone.files.server)
    changed = []
    for place in range(len(packet)):
        flipped = bytearray(packet)
        flipped[place] ^= 1 << place % 8
        changed.append(bytes(flipped))
    lengths = [length for length in range(1401) if length != len(packet)]
    for number, garbage in enumerate([*changed, *((packet + bytes(1400))[:length] for length in lengths)]):
        lone.send(crowd[number % len(crowd)], garbage)
    lone.send(guest, packet)  # which is still good
    assert lone.in_after(guest)
    assert [opening["address"] for opening in lone.daemon.openings()] == [str(guest)]
    others = sum(length in PACKET_BYTES for length in lengths)  # the other lengths of packets
    expected = len(packet) + 1 + others, len(lengths) - others
    # What another processor sent may still wait there.
    until(lambda: (counters := lone.daemon.counters())["signed"] + counters["signed_length"] == sum(expected))
    counters = lone.daemon.counters()
    assert (counters["signed"], counters["signed_length"]) == expected


def test_headers_that_contradict_the_length_of_a_datagram_do_not_end_the_verifier(site: Site) -> None:
    guest = site.visitors.fresh(4)
    packet = site.laptop.packet(site.files.server)

    def go() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP) as raw:
            raw.bind((str(guest), 0))
            for payload in (b"", packet[:-1], packet[:10], packet + b"more", bytes(1300)):
                header = (40_000).to_bytes(2) + PORT.to_bytes(2) + (8 + len(packet)).to_bytes(2) + bytes(2)
                raw.sendto(header + payload, (str(guest.server), 0))

    site.lab.client.call(go)
    site.daemon.event("opened", address=str(guest))  # by the whole packet with more behind it
    site.knock(guest)
    site.daemon.event("prolonged", address=str(guest))
    assert not any("verifier" in event.get("message", "") for event in site.daemon.events())


def test_nothing_is_ever_answered_and_no_socket_is_there(site: Site) -> None:
    guest = site.visitors.fresh(4)
    listening = site.daemon.host.run(["ss", "-Hlun"]).stdout
    assert "62201" not in listening
    packet = site.laptop.packet(site.files.server)

    def ask() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.bind((str(guest), 0))
            sender.connect((str(guest.server), 62201))
            sender.settimeout(0.3)
            for payload in (b"x", packet, packet):
                sender.send(payload)  # a refused port would show at the second
            with pytest.raises(TimeoutError):
                sender.recv(100)

    site.lab.client.call(ask)
    site.daemon.event("opened", address=str(guest))


def test_one_source_is_limited(lone: Site) -> None:
    guest, flooder = lone.visitors.crowd(4, 2)
    lone.send(flooder, *[bytes(190)] * (SIGNED_CALM_BURST + 500))
    until(lambda: lone.daemon.counters()["signed_throttled"] >= 100)
    lone.knock(guest)
    assert lone.in_after(guest)


@pytest.mark.parametrize("version", [4, 6])
def test_forged_datagrams_from_an_address_do_not_shut_its_knocks_out(lone: Site, version: int) -> None:
    """Before each of ten knocks 25 datagrams come from the same address, all as fast as they can be sent."""
    guest = lone.visitors.fresh(version)
    for number in range(10):
        lone.send(guest, *[os.urandom(190) for _ in range(25)], lone.laptop.packet(lone.files.server))
        lone.await_opened(number + 1)
    assert lone.daemon.counters()["signed_throttled"] == 0


def test_a_verifier_that_is_killed_is_replaced(lone: Site) -> None:
    guest = lone.visitors.fresh(4)
    (verifier,) = [pid for pid in children_of(lone.daemon.process.pid) if status_of(pid)["Name"] == "doorward-verify"]
    os.kill(verifier, signal.SIGKILL)
    lone.daemon.message("the verifier of signed knocks failed")
    lone.knock(guest)  # waits in the kernel
    assert lone.in_after(guest)


def test_a_verifier_that_is_killed_before_it_is_ready_is_replaced(lone: Site) -> None:
    """And the one before does not go on: it does not know what the file says now."""
    before = set(children_of(lone.daemon.process.pid))
    (verifier,) = [pid for pid in before if status_of(pid)["Name"] == "doorward-verify"]
    slow = lone.files.keys_file.with_name("slow")
    os.mkfifo(slow, 0o600)
    slow.replace(lone.files.keys_file)
    with lone.files.keys_file.open("w"):  # returns once somebody reads it
        (beginner,) = set(children_of(lone.daemon.process.pid)) - before
        os.kill(beginner, signal.SIGKILL)
        failed = lone.daemon.message("did not start")
    assert "(the process ended)" in failed["message"]
    assert verifier not in children_of(lone.daemon.process.pid)
    with lone.files.keys_file.open("w"):  # another reads it
        lone.files.authorize(lone.laptop.line)
    lone.daemon.message("accepting signed knocks")
    guest = lone.visitors.fresh(4)
    lone.knock(guest)
    assert lone.in_after(guest)


def test_untrusted_certificate_text_does_not_end_the_verifier(lone: Site) -> None:
    """He needs the server's public key and an authority's; the longest names make the longest words."""
    authority, mine = ssh_keygen.key("ed25519", 7), ssh_keygen.public_line(ssh_keygen.key("ed25519", 8))
    wide = "\U0001f600" * 60
    certificate = ssh_keygen.certify(authority, mine, "-n", f"{wide},{wide[1:]}", name=wide)
    lone.files.authorize(lone.laptop.line, f'cert-authority,principals="ops" {ssh_keygen.public_line(authority)}')
    lone.daemon.message("accepting signed knocks")
    (verifier,) = [pid for pid in children_of(lone.daemon.process.pid) if status_of(pid)["Name"] == "doorward-verify"]
    os.kill(verifier, signal.SIGSTOP)  # so that it finds them all at once
    for stranger in lone.visitors.crowd(4, 8):
        for _ in range(20):
            body = pack_body(lone.laptop.request(signer=signer_hash(certificate), flags=CERTIFICATE))
            lone.send(stranger, sealed(lone.files.server, body, b"", 1368, certificate))
    os.kill(verifier, signal.SIGCONT)
    guest = lone.visitors.fresh(4)
    lone.knock(guest)
    assert lone.in_after(guest)
    assert status_of(verifier)["Name"] == "doorward-verify"


def test_reload_switches_to_other_settings(lone: Site) -> None:
    guest, late = lone.visitors.crowd(4, 2)
    lone.daemon.reload(lone.text.replace("[signed]", '[signed]\nwindow = "10m"'))
    lone.daemon.message("accepting signed knocks")
    lone.knock(late, ahead_ms=300_000)
    lone.daemon.event("opened", address=str(late))
    lone.daemon.reload(lone.text.replace("[signed]\n", ""))
    lone.knock(guest)
    assert not guest.gets_in()
    assert lone.daemon.counters()["signed"] == 1
    lone.files.key_file.rename(lone.files.key_file.with_suffix(".away"))
    lone.daemon.config.write_text(lone.text)
    lone.daemon.process.send_signal(signal.SIGHUP)
    assert "no server key; create it with `doorward key server`" in lone.daemon.message("server.key")["message"]
    lone.daemon.message("the configuration was not reloaded")


def test_knock_from_a_banned_address_is_dropped_and_one_for_it_rejected(lone: Site) -> None:
    banned, friend = lone.visitors.crowd(4, 2)
    lone.files.authorize(f'addresses="{ip_network(f"{banned}/24", strict=False)}" {lone.laptop.line}')
    lone.daemon.message("accepting signed knocks")
    lone.daemon.run("ban", banned)
    lone.knock(banned)
    lone.knock(friend, asked=banned.source)
    assert lone.refusal(banned) == f"signed knock: {banned} is banned"
    assert lone.daemon.counters()["signed"] == 1  # that of the friend
    with closing(sqlite3.connect(lone.daemon.state / "ledger.sqlite3")) as ledger:
        assert ledger.execute("SELECT count(*) FROM seen").fetchone() == (0,)  # what is refused is not noted as used
    lone.knock(friend)
    assert lone.in_after(friend)
    assert not banned.gets_in()
    lone.daemon.run("unban", banned)
    lone.knock(banned)
    assert lone.in_after(banned)


def test_banned_address_is_not_let_in_with_its_network(lone: Site) -> None:
    banned, neighbour = lone.visitors.crowd(4, 2)
    network = ip_network(f"{neighbour}/24", strict=False)
    lone.files.authorize(f'addresses="{network}" {lone.laptop.line}')
    lone.daemon.message("accepting signed knocks")
    lone.daemon.run("ban", banned)
    lone.knock(neighbour, asked=network)
    lone.daemon.event("opened", address=str(network))
    assert neighbour.gets_in()
    assert not banned.gets_in()
