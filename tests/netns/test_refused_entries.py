"""Entries that nftables refuses: each costs its own opening, the gate comes back without it, and nothing else waits."""

from __future__ import annotations

import os
import re
import signal
import socket
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from ipaddress import IPv4Address, ip_address, ip_network
from pathlib import Path

import pytest

from doorward.daemon.signed_knocks import MAX_OPENINGS_PER_KEY, MAX_WIDE_PER_KEY
from doorward.errors import NegativeResult, UsageError
from doorward.lab.topology import Lab
from doorward.model import Address, Port, Source
from tests.support.daemon import PATIENCE_S, SLOWNESS, RunningDaemon, Visitors, running_daemon
from tests.support.service_user import children_of, status_of
from tests.support.signed import PORT, Signed, Signer, send

pytestmark = pytest.mark.netns("nft", "knock")

SSH = Port.parse("22/tcp")
SEQUENCE = ("7001", "7002:udp", "7003")
CONFIG = """
[gate]
mode = "guard"
[signed]
[doors.ssh]
knock = ["7001/tcp", "7002/udp", "7003/tcp"]
opens = ["22/tcp"]
for = "10m"
on_open = ["/bin/echo", "ran for", "%IP%"]
"""
POISON = ("fe80::1%; flush ruleset", "fe80::%x/64", "192.0.2.300")
WIDE, NARROW = ip_network("10.9.0.0/16"), ip_network("10.9.9.0/24")  # the kernel takes the narrow one first only
ASKED = IPv4Address("10.77.0.1")
SOON_S = 3.0 * SLOWNESS  # in which a command is answered, whatever else there is to do


class Site:
    """A gate with two keys that may ask for any address."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab, self.visitors = lab, Visitors(lab)
        self.laptop, self.other = Signer("laptop"), Signer("other")
        self.files = Signed(folder / "configuration")
        self.files.authorize(*(f'addresses="10.0.0.0/8" {signer.line}' for signer in (self.laptop, self.other)))
        self.daemon: RunningDaemon

    def knock(self, signer: Signer, place: Source, source: Address) -> None:
        send(self.lab.client, source, self.lab.server.ipv4, signer.packet(self.files.server, asked=place))

    def flood(self, places: Sequence[Source], sources: Sequence[Address]) -> None:
        """Send a knock for each place as fast as it goes, from one source after the other."""
        packets = [self.laptop.packet(self.files.server, asked=place) for place in places]

        def go() -> None:
            with ExitStack() as stack:
                senders = [stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in sources]
                for sender, source in zip(senders, sources, strict=True):
                    sender.bind((str(source), 0))
                for number, packet in enumerate(packets):
                    senders[number % len(senders)].sendto(packet, (str(self.lab.server.ipv4), PORT))

        self.lab.client.call(go)

    def record(self, *rows: tuple[str, float]) -> None:
        """Write openings into the ledger of a daemon that does not run: places, and when they end."""
        with closing(sqlite3.connect(self.daemon.state / "ledger.sqlite3")) as db, db:
            db.executemany(
                "INSERT INTO openings (door, address, ports, since, until, opened_by)"
                " VALUES ('ssh', ?, '[\"22/tcp\"]', ?, ?, 'key laptop')",
                [(place, until_s - 600, until_s) for place, until_s in rows],
            )

    def refusals(self) -> dict[str, int]:
        refused: dict[str, int] = self.daemon.ask("status")["signed"]["refused"]
        return refused

    def ends(self) -> dict[str, object]:
        """Return how the last opening of each address ended."""
        return {r["address"]: r["closed_by"] for r in self.daemon.log("--last", "1000") if r["event"] == "opened"}


@pytest.fixture
def site(direct_lab: Lab, tmp_path: Path) -> Iterator[Site]:
    direct_lab.server.start_greeter(22)
    site = Site(direct_lab, tmp_path)
    with running_daemon(direct_lab.server, tmp_path, CONFIG) as site.daemon:
        site.daemon.message("accepting signed knocks")
        yield site


def agree(site: Site, *wanted: object) -> None:
    """Compare kernel, book and ledger with what is wanted to be open."""
    addresses = set(map(str, wanted))
    assert {str(element.address) for element in site.daemon.elements()} == addresses
    assert {opening["address"] for opening in site.daemon.openings()} == addresses
    assert {address for address, ended in site.ends().items() if ended is None} == addresses


def test_a_poisoned_row_costs_its_own_opening_at_a_start(site: Site) -> None:
    daemon, until_s = site.daemon, time.time() + 600
    guest, stranger = site.visitors.crowd(4, 2)
    guest.knock(*SEQUENCE)
    daemon.event("opened", address=str(guest))
    daemon.end(signal.SIGKILL)
    site.record(*((str(place), until_s) for place in (*POISON, WIDE)))
    daemon.config.write_text(CONFIG.replace("[signed]", ""))  # without it there are no sets for networks
    daemon.host.run(["nft", "delete table inet doorward"])
    daemon.start()
    agree(site, guest)
    assert guest.gets_in()
    assert not stranger.gets_in()
    assert f"ssh to {WIDE}" in daemon.message("the gate was restored without")["message"]
    assert f"ssh to {WIDE}" in daemon.ask("status")["gate_trouble"]
    assert site.ends()[str(WIDE)] == "lost"


def test_a_ledger_full_of_poison_does_not_hold_the_daemon(site: Site) -> None:
    """Each row alone would take the kernel some 10 ms or more; the service manager waits for 90 s."""
    daemon, until_s = site.daemon, time.time() + 600
    guest = site.visitors.fresh(4)
    guest.knock(*SEQUENCE)
    daemon.event("opened", address=str(guest))
    daemon.end(signal.SIGKILL)
    site.record(*((f"10.{64 + number // 256}.{number % 256}.0/24", until_s) for number in range(4000)))
    daemon.config.write_text(CONFIG.replace("[signed]", ""))
    daemon.host.run(["nft", "delete table inet doorward"])
    daemon.start()
    assert [opening["address"] for opening in daemon.openings()] == [str(guest)]
    assert guest.gets_in()


def test_a_repair_restores_the_gate_without_what_nftables_refuses(site: Site) -> None:
    daemon = site.daemon
    guest, stranger = site.visitors.crowd(4, 2)
    guest.knock(*SEQUENCE)
    daemon.event("opened", address=str(guest))
    for asked in (NARROW, WIDE, ASKED, ASKED + 1):
        site.knock(site.laptop, asked, guest.source)
        daemon.event("opened", address=str(asked))
    full_set_of(site, 2)
    assert not stranger.gets_in()
    assert guest.gets_in()
    assert "ssh to 10.77.0." in daemon.message("the gate was restored without")["message"]
    assert "ssh to 10.77.0." in daemon.ask("status")["gate_trouble"]
    (lost,) = {str(ASKED), str(ASKED + 1)} - {opening["address"] for opening in daemon.openings()}
    agree(site, *{guest.source, NARROW, WIDE, ASKED, ASKED + 1} - {ip_address(lost)})
    assert site.ends()[lost] == "lost"
    daemon.host.run(["nft", "flush ruleset"])  # and from then on as before
    daemon.message("changed the gate; restored")
    assert daemon.ask("status")["gate_trouble"] == ""
    site.knock(site.laptop, NARROW, guest.source)  # which nftables would refuse
    daemon.event("refused", address=str(NARROW))
    assert site.refusals() == {"overlap": 1}


def full_set_of(site: Site, size: int) -> None:
    """Have a repair load a gate in which the set of IPv4 addresses is so small."""
    kept = site.daemon.state / "gate.nft"
    small = re.sub(r"(set open4 {\s+type [^\n]+\s+size )\d+", rf"\g<1>{size}", kept.read_text())
    assert small != kept.read_text()
    kept.write_text(small)
    site.daemon.host.run(["nft", "flush ruleset"])
    site.daemon.message("changed the gate; restored")


def test_a_batch_that_a_full_set_refuses_in_part(site: Site) -> None:
    """Of twelve right knocks in one message eight find room; the log, the hooks and the ledger tell of those alone."""
    daemon = site.daemon
    full_set_of(site, 8)
    (verifier,) = (pid for pid in children_of(daemon.process.pid) if status_of(pid)["Name"] == "doorward-verify")
    os.kill(verifier, signal.SIGSTOP)  # so that it tells of all at once
    sources = [visitor.source for visitor in site.visitors.crowd(4, 2)]
    for number in range(12):
        site.knock(site.laptop, ASKED + number, sources[number % 2])
    os.kill(verifier, signal.SIGCONT)
    refused = {daemon.event("refused")["address"] for _ in range(4)}
    opened = {daemon.event("opened")["address"] for _ in range(8)}
    assert opened | refused == {str(ASKED + number) for number in range(12)}
    agree(site, *opened)
    assert {address for address, ended in site.ends().items() if ended == "refused"} == refused
    assert site.refusals() == {"full": 4}
    daemon.ask("close", door="ssh", address=min(opened))  # an unrelated call
    daemon.ask("open", door="ssh", address="10.78.0.1")
    with pytest.raises(UsageError, match="full"):
        daemon.ask("open", door="ssh", address="10.78.0.2")
    events = daemon.events()
    assert {event["address"] for event in events if event["event"] == "opened"} == opened | {"10.78.0.1"}
    daemon.end()
    ran = set(re.findall(r"output: ran for ([0-9.]+)", "".join(daemon.lines)))
    assert ran == opened | {"10.78.0.1"}


def test_one_key_cannot_fill_the_set_and_commands_are_answered_meanwhile(site: Site) -> None:
    daemon, sources = site.daemon, [visitor.source for visitor in site.visitors.crowd(4, 40)]
    asked = [ASKED + number for number in range(2 * MAX_OPENINGS_PER_KEY)]
    site.flood(asked, sources)
    waits_s, until_s = list[float](), time.monotonic() + PATIENCE_S
    while sum(site.refusals().values()) < MAX_OPENINGS_PER_KEY:  # no event tells of the last one
        began_s = time.monotonic()
        assert began_s < until_s, site.refusals()
        with suppress(NegativeResult):
            daemon.ask("close", door="ssh", address="192.0.2.99")
        waits_s.append(time.monotonic() - began_s)
    assert max(waits_s) < SOON_S
    assert site.refusals() == {"quota": MAX_OPENINGS_PER_KEY}
    assert len(daemon.elements()) == len(daemon.openings()) == MAX_OPENINGS_PER_KEY
    assert "as many as a key may have" in daemon.event("refused")["reason"]
    refusals = [each for each in daemon.log("--last", "1000") if each["event"] == "refused"]
    assert len(refusals) < MAX_OPENINGS_PER_KEY  # all are counted, and not all recorded

    site.knock(site.other, ASKED - 1, sources[0])  # another key has a quota of its own
    daemon.event("opened", address=str(ASKED - 1))
    inside = daemon.openings()[0]["address"]
    site.knock(site.laptop, ip_address(inside), sources[1])  # to prolong takes no room
    daemon.event("prolonged", address=inside)
    daemon.ask("close", door="ssh", address=inside)
    site.knock(site.laptop, asked[-1], sources[2])
    daemon.event("opened", address=str(asked[-1]))


def test_one_key_cannot_fill_the_set_of_networks(site: Site) -> None:
    sources = [visitor.source for visitor in site.visitors.crowd(4, 10)]
    base = int(IPv4Address("10.128.0.0"))
    site.flood([ip_network((base + (number << 8), 24)) for number in range(MAX_WIDE_PER_KEY + 8)], sources)
    for _ in range(8):
        assert "as many as a key may have" in site.daemon.event("refused")["reason"]
    assert site.refusals() == {"quota": 8}
    assert len(site.daemon.elements()) == len(site.daemon.openings()) == MAX_WIDE_PER_KEY
