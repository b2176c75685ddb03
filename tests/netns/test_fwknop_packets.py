"""Debian's fwknop client, as it is, at a real gate: its packets open doors once, for what its stanza allows."""

from __future__ import annotations

import signal
import string
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from doorward.lab.topology import Lab
from doorward.signed.message import RAW_BYTES
from tests.support.daemon import Visitor, until
from tests.support.fwknop import Keys
from tests.support.signed_site import SENT_BY_GATE, SignedSite
from tests.support.tcpdump import tcpdump

pytestmark = pytest.mark.netns("nft", "fwknop", "tcpdump")

CONFIG = """
[gate]
mode = "stealth"
[signed]
[doors.ssh]
opens = ["22/tcp"]
[doors.web]
opens = ["80/tcp"]
[doors.inside]
opens = ["2222/tcp -> 10.7.0.2:22"]
[fwknop]
[fwknop.stanzas.alice]
doors = ["ssh", "web", "inside"]
require_source_address = false
[fwknop.stanzas.bob]
doors = ["ssh"]
insecure_no_hmac = true
"""
LETTERS = string.ascii_uppercase + string.ascii_lowercase + string.digits + "+/"


class Site(SignedSite):
    """A gate with two stanzas, and what their clients share with it."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        super().__init__(lab, folder, CONFIG)
        self.alice, self.bob = Keys.random(), Keys.random()._replace(hmac=None)
        keys = folder / "configuration" / "fwknop.keys"
        keys.touch(0o600)
        keys.write_text(self.alice.line("alice") + self.bob.line("bob"))
        for port in (22, 80):
            lab.server.start_greeter(port)

    def packet(self, visitor: Visitor, *options: object, access: str = "tcp/22") -> bytes:
        """Have alice's client make a packet."""
        return self.made_by_client(visitor, "--access", access, "--allow-ip", visitor, *options)

    def made_by_client(self, visitor: Visitor, *options: object) -> bytes:
        """Have alice's client make one, dated ahead: fwknop dates by seconds, and the gate has just started."""
        return self.alice.by_client("--time-offset-plus", "2s", *options, server=visitor.server)

    def dropped(self) -> int:
        """Count the datagrams that gate and verifier have rejected."""
        status = self.daemon.ask("status")
        return int(sum(status["signed"]["refused"].values()) + status["counters"]["signed_length"])

    def accepted(self) -> list[bool]:
        """Return for each stanza whether its packets are accepted."""
        return [use["takes"] for use in self.daemon.ask("status")["signed"]["fwknop"]]

    def replay(self, first: Visitor, second: Visitor, packets: Sequence[bytes]) -> None:
        """Send packets from two addresses, and see that all are rejected."""
        before = self.dropped()
        for number, packet in enumerate((*packets, *packets), 1):
            self.send(first if number <= len(packets) else second, packet)
        until(lambda: self.dropped() == before + 2 * len(packets))
        assert self.daemon.openings() == []

    def rejected(self, visitor: Visitor) -> str:
        """Await a rejection of a visitor's packet, and return why."""
        return str(self.daemon.event("refused", address=str(visitor))["reason"])


@pytest.fixture
def site(direct_lab: Lab, tmp_path: Path) -> Site:
    return Site(direct_lab, tmp_path)


def test_the_client_opens_what_it_requests_and_hears_nothing(site: Site) -> None:
    with site.running() as daemon, tcpdump(site.lab.server, *SENT_BY_GATE) as dump:
        for access, doors in (("tcp/22", ["ssh"]), ("tcp/22,tcp/80", ["ssh", "web"])):
            guest, neighbour = site.visitors.crowd(4, 2)
            assert not guest.gets_in()
            site.send(guest, site.packet(guest, access=access))
            for door in doors:
                opened = daemon.event("opened", address=str(guest), door=door)
                assert (opened["by"], opened["for_s"]) == ("fwknop alice", 30.0)
            assert guest.gets_in()
            assert not neighbour.gets_in()
            assert guest.gets_in(80) is ("web" in doors)
        before = site.sent_by_gate(dump)
        site.send(guest, site.packet(guest), site.packet(guest)[:-1])
        daemon.event("prolonged", address=str(guest))
        assert len(site.sent_by_gate(dump)) == len(before) + 1  # the marker


def test_a_forwarded_port_is_requested_as_the_client_sees_it(site: Site) -> None:
    with site.running() as daemon:
        guest = site.visitors.fresh(4)
        site.send(guest, site.packet(guest, access="tcp/2222"))
        opened = daemon.event("opened", address=str(guest))
        assert (opened["door"], opened["ports"]) == ("inside", ["2222/tcp"])


def test_the_fields_of_the_packet_count(site: Site) -> None:
    with site.running() as daemon:
        guest, other = site.visitors.crowd(4, 2)
        site.send(other, site.packet(guest, "--fw-timeout", 77))  # sent by somebody else, for the guest
        assert daemon.event("opened", address=str(guest))["for_s"] == 77.0
        anywhere = site.made_by_client(guest, "--access", "tcp/80", "--source-ip")
        site.send(other, anywhere)
        assert daemon.event("opened", address=str(other))["door"] == "web"
        for access, *options in (("tcp/443",), ("tcp/22,tcp/443",), ("tcp/22", "--time-offset-plus", "1h")):
            late = site.visitors.fresh(4)
            site.send(late, site.packet(late, *options, access=access))
            assert "alice" in site.rejected(late)
            assert not late.gets_in()


def _spellings(packet: bytes) -> list[bytes]:
    """Return other spellings of a packet's base64 that decode to the same bytes, and the packet itself."""
    last = LETTERS.index(chr(packet[-1]))
    unused = [packet[:-1] + LETTERS[last ^ bits].encode() for bits in range(4)]
    first = LETTERS.index(chr(packet[0]))
    unused += [LETTERS[first ^ bits].encode() + packet[1:] for bits in (4, 8, 16, 32)]  # not the salt's
    padded = [packet + b"=" * count for count in range(1, 4)]
    return [*unused, *padded, b"U2FsdGVkX1" + packet, packet + b"\n", packet.replace(b"+", b"-").replace(b"/", b"_")]


def test_a_captured_packet_opens_nothing_again(site: Site) -> None:
    """From its own address and from another, in every spelling, at once, after a restart and after a kill."""
    with site.running() as daemon:
        guest, thief = site.visitors.crowd(4, 2)
        packets = [
            site.packet(guest),
            site.made_by_client(guest, "--access", "tcp/80", "--source-ip"),
            site.bob.request(f"{guest},tcp/22", time_s=time.time() + 2),
        ]
        copies = [copy for packet in packets for copy in _spellings(packet)]
        for packet in packets[:2]:
            site.send(guest, packet)
            daemon.event("opened", address=str(guest))
        daemon.run("close", "ssh", guest)
        site.send(guest, packets[2])
        assert daemon.event("opened", address=str(guest), by="fwknop bob")
        for door in ("ssh", "web"):
            daemon.run("close", door, guest)
        site.replay(guest, thief, copies)
        for number in (signal.SIGTERM, signal.SIGKILL):
            daemon.end(number)
            daemon.start()
            daemon.message("accepting signed knocks")
            site.replay(thief, guest, copies)


def test_a_used_packet_dated_ahead_opens_nothing_after_the_ledger_is_lost(site: Site) -> None:
    """Its window is longer than that of signed knocks."""
    with site.running() as daemon:
        guest, thief = site.visitors.crowd(4, 2)
        packet = site.alice.by_client("--access", "tcp/22", "-s", "--time-offset-plus", "110s", server=guest.server)
        site.send(guest, packet)
        daemon.event("opened", address=str(guest))
        daemon.run("close", "ssh", guest)
        daemon.end(signal.SIGKILL)
        for path in daemon.state.glob("ledger.sqlite3*"):
            path.write_bytes(b"damaged" * 1000)
        daemon.start()
        daemon.message("accepting signed knocks")
        site.replay(thief, guest, [packet])


def test_a_sender_without_a_key_opens_nothing(site: Site) -> None:
    with site.running() as daemon:
        guest = site.visitors.fresh(4)
        good = site.packet(guest)
        wrong = [Keys.random().request(f"{guest},tcp/22", time_s=time.time() + 2)]
        wrong += [good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :] for at in (0, 20, 100, 170, 203)]
        site.send(guest, *wrong)
        until(lambda: site.dropped() == len(wrong))
        assert daemon.openings() == []
        site.send(guest, good)
        daemon.event("opened", address=str(guest))


def test_a_signed_knock_that_begins_with_letters_has_its_own_limits(site: Site) -> None:
    with site.running() as daemon:
        site.send(site.visitors.fresh(4), b"AAAA" + bytes(RAW_BYTES - 4))
        until(lambda: site.dropped() == 1)
        assert daemon.ask("status")["counters"]["fwknop"] == 0


def test_status_names_who_has_moved_to_signed_knocks(site: Site) -> None:
    site.files.authorize(site.laptop.line.replace(" laptop", " alice@laptop"))
    with site.running() as daemon:
        guest = site.visitors.fresh(4)
        site.send(guest, site.packet(guest))
        daemon.event("opened", address=str(guest))
        uses = {use["stanza"]: use for use in daemon.ask("status")["signed"]["fwknop"]}
        assert uses["alice"]["fwknop"] is not None
        assert uses["alice"]["signed"] is uses["bob"]["fwknop"] is None
        other = site.visitors.fresh(4)
        site.send(other, site.laptop.packet(site.files.server))
        daemon.event("opened", address=str(other))
        daemon.end()
        daemon.start()  # the ledger knows it
        (alice, _) = daemon.ask("status")["signed"]["fwknop"]
        assert alice["signed"] > alice["fwknop"]
        assert "moved" in daemon.run("status").stdout


def test_signed_knocks_go_on_without_the_shared_keys(site: Site) -> None:
    with site.running() as daemon:
        keys = site.folder / "configuration" / "fwknop.keys"
        keys.write_text(f"nothing of use\n{site.bob.line('bob')}")
        daemon.message("not base64")
        until(lambda: site.accepted() == [False, True])
        guest = site.visitors.fresh(4)
        site.send(guest, site.packet(guest), site.laptop.packet(site.files.server))
        assert daemon.event("opened", address=str(guest))["by"] == "key laptop"
        keys.unlink()
        daemon.message("no packet of fwknop's clients is accepted")
        until(lambda: site.accepted() == [False, False])
        assert daemon.run("status").stdout.count("not accepted, see the log") == 2
