"""Closing by a signed knock: the real daemon, real packets, and nothing of anybody else's ends."""

from __future__ import annotations

import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from doorward.lab.topology import Lab
from doorward.signed.message import CERTIFICATE, CLOSE, LONG_BYTES, pack_body, signer_hash
from doorward.signed.ssh_wire import string
from tests.netns.test_signed import Site
from tests.support import ssh_keygen
from tests.support.daemon import DOORWARD, Visitor, until
from tests.support.signed import Signer, sealed

pytestmark = pytest.mark.netns("nft", "knock")


@pytest.fixture(scope="module")
def standing_site(module_lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    module_lab.server.start_greeter(22)
    module_lab.server.start_greeter(5432)
    site = Site(module_lab, tmp_path_factory.mktemp("gate"))
    site.text = site.text.replace(
        'opens = ["22/tcp"]', f'opens = ["22/tcp"]\non_close = ["/usr/bin/touch", "{site.folder}/%IP%"]'
    )
    with site.running():
        yield site


@pytest.fixture
def site(standing_site: Site) -> Site:
    standing_site.renew()
    return standing_site


def opened(site: Site, visitor: Visitor, ahead_ms: int = 0) -> None:
    site.knock(visitor, ahead_ms=ahead_ms)
    site.daemon.event("opened", address=str(visitor))


def closed_by(site: Site, visitor: Visitor) -> str:
    by: str = site.daemon.event("closed", address=str(visitor))["by"]
    return by


@pytest.mark.parametrize("version", [4, 6])
def test_a_close_ends_what_its_signer_opened(site: Site, version: int) -> None:
    guest, other = site.visitors.crowd(version, 2)
    opened(site, guest)
    opened(site, other)
    connection = guest.connect()
    site.knock(guest, flags=CLOSE)
    assert closed_by(site, guest) == "key laptop"
    assert site.daemon.elements().keys() == {other.element()}
    assert not guest.gets_in()
    assert other.gets_in()
    connection.sendall(b"still there\n")
    assert connection.recv(100)  # established connections continue
    connection.close()
    (record,) = site.daemon.log("--address", guest)
    assert record["closed_by"] == "key laptop"
    until((site.folder / str(guest)).exists)  # on_close has run
    assert "closed by key laptop" in " ".join(site.daemon.run("explain", guest, check=False).stdout.split())


def test_packets_that_were_held_back_change_nothing(site: Site) -> None:
    guest = site.visitors.fresh(4)
    held = [site.laptop.packet(site.files.server) for _ in range(3)]
    held_close = site.laptop.packet(site.files.server, flags=CLOSE)
    opened(site, guest, ahead_ms=5)
    site.send(guest, held_close)
    site.daemon.event("not_open", address=str(guest))
    assert guest.gets_in()
    site.knock(guest, flags=CLOSE, ahead_ms=5)
    assert closed_by(site, guest) == "key laptop"
    site.send(guest, held.pop())
    assert "its signer closed the door at that time or later" in site.refusal(guest)
    for number in (signal.SIGTERM, signal.SIGKILL):
        site.daemon.end(number)
        site.daemon.start()
        site.daemon.message("accepting signed knocks")
        site.send(guest, held.pop())
        assert "its signer closed the door at that time or later" in site.refusal(guest)
    assert not guest.gets_in()
    opened(site, guest)


def test_nothing_of_anybody_else_ends(site: Site) -> None:
    guest, elsewhere, by_hand = site.visitors.crowd(4, 3)
    colleague = Signer("laptop")  # the same comment, and another key
    site.files.authorize(site.laptop.line, colleague.line)
    site.daemon.message("accepting signed knocks")
    opened(site, guest)
    opened(site, elsewhere)
    site.daemon.run("open", "ssh", by_hand)
    site.knock(guest, "db")
    site.daemon.event("opened", address=str(guest), door="db")
    site.send(guest, colleague.packet(site.files.server, flags=CLOSE))
    site.daemon.event("not_open", address=str(guest))
    site.send(by_hand, site.laptop.packet(site.files.server, flags=CLOSE))
    site.daemon.event("not_open", address=str(by_hand))
    assert all(visitor.gets_in() for visitor in (guest, elsewhere, by_hand))
    site.send(guest, colleague.packet(site.files.server, for_s=20))
    site.daemon.event("prolonged", address=str(guest))
    site.knock(guest, flags=CLOSE)
    assert site.daemon.event("released", address=str(guest))["still"] == "key laptop"
    assert guest.gets_in()
    assert guest.gets_in(5432)
    assert site.daemon.elements()[guest.element()] <= 20  # what the colleague has
    site.send(guest, colleague.packet(site.files.server, flags=CLOSE))
    assert closed_by(site, guest) == "key laptop"
    assert not guest.gets_in()
    assert guest.gets_in(5432)


def test_a_close_and_a_sequence_leave_the_door_to_the_sequence(site: Site) -> None:
    guest = site.visitors.fresh(4)
    site.knock(guest, "db")
    site.daemon.event("opened", address=str(guest), door="db")
    guest.knock("7001", "7002:udp", "7003")
    site.daemon.event("prolonged", address=str(guest), by="knock")
    site.knock(guest, "db", flags=CLOSE)
    assert site.daemon.event("released", address=str(guest))["still"] == "knock"
    assert guest.gets_in(5432)
    guest.knock("7001", "7002:udp", "7003")
    site.daemon.event("prolonged", address=str(guest), by="knock")
    assert guest.element("5432/tcp") in site.daemon.elements()


@pytest.mark.parametrize("step", ["claimed", "applied"])
def test_a_kill_does_not_undo_a_close(site: Site, step: str) -> None:
    guest = site.visitors.fresh(4)
    opened(site, guest)
    if step == "applied":
        site.knock(guest, flags=CLOSE)
        closed_by(site, guest)
    site.daemon.end(signal.SIGKILL)
    if step == "claimed":  # what is committed before anything is applied
        (path,) = site.folder.rglob("ledger.sqlite3")
        row = (signer_hash(site.laptop.key.blob).hex(), "ssh", str(guest), round(time.time() * 1000))
        with closing(sqlite3.connect(path)) as ledger, ledger:
            ledger.execute("INSERT INTO closes (signer, door, address, time) VALUES (?, ?, ?, ?)", row)
    site.daemon.start()
    if step == "claimed":
        assert closed_by(site, guest) == "key laptop"
    site.daemon.message("accepting signed knocks")
    assert site.daemon.openings() == []
    assert site.daemon.elements() == {}
    assert not guest.gets_in()


def test_after_a_close_by_hand_a_knock_that_was_held_back_opens_nothing(site: Site) -> None:
    guest = site.visitors.fresh(4)
    held_open = site.laptop.packet(site.files.server)
    opened(site, guest)
    site.daemon.run("close", "ssh", guest)
    site.send(guest, held_open)
    assert "its signer closed the door at that time or later" in site.refusal(guest)
    assert not guest.gets_in()


def certified(site: Site, *options: str, authority: int = 7, name: str = "alice", flags: int = 0) -> bytes:
    """Make a packet by the laptop's key with a certificate for it, of an authority by number."""
    server, principals = site.files.server, () if "-n" in options else ("-n", "ops")
    certificate = ssh_keygen.certify(
        ssh_keygen.key("ed25519", authority), site.laptop.line, *principals, *options, name=name
    )
    body = pack_body(site.laptop.request(signer=signer_hash(certificate), flags=flags | CERTIFICATE))
    signature = string(b"ssh-ed25519") + string(site.laptop.sign(server, body))
    return sealed(server, body, signature, LONG_BYTES, certificate)


def test_certificates_open_and_close(site: Site) -> None:
    """A renewed one closes; another key ID of the authority does not. What is wrong with one opens nothing."""
    site.files.authorize(f'cert-authority,principals="ops" {ssh_keygen.public_line(ssh_keygen.key("ed25519", 7))}')
    site.daemon.message("accepting signed knocks")
    guest, other = site.visitors.crowd(4, 2)
    site.send(guest, certified(site, "-z", "1"))
    assert site.daemon.event("opened", address=str(guest))["by"] == "key alice (signed by ed25519 number 7)"
    assert guest.gets_in()
    site.send(guest, certified(site, name="mallory", flags=CLOSE))
    site.daemon.event("not_open", address=str(guest))
    assert guest.gets_in()
    for wrong, reason in [
        (certified(site, "-V", "20200101:20200201"), "expired on 2020-02-01"),
        (certified(site, "-V", "+1h:+2h"), "is not valid before"),
        (certified(site, "-n", "dev"), "is for 'dev'"),
        (certified(site, authority=8), "has no cert-authority line"),
        (certified(site, "-O", "source-address=203.0.113.0/24"), "may not knock from"),
        (site.laptop.packet(site.files.server), "does not list the key"),
    ]:
        site.send(other, wrong)
        assert reason in site.refusal(other)
    site.send(guest, certified(site, "-z", "2", flags=CLOSE))
    assert closed_by(site, guest) == "key alice (signed by ed25519 number 7)"
    assert not guest.gets_in()
    assert not other.gets_in()


def test_the_command_closes(site: Site) -> None:
    guest = Visitor(site.lab.client, site.lab.client.ipv4, site.lab.server.ipv4)
    private = ssh_keygen.key("ed25519")
    site.files.authorize(ssh_keygen.public_line(private))
    site.daemon.message("accepting signed knocks")
    knock = [*DOORWARD, "knock", guest.server, "ssh", "--server-key", site.files.server.public, "--identity", private]
    environment = {"HOME": "/nonexistent", "SSH_AUTH_SOCK": ""}
    site.lab.client.run(knock, env=environment)
    site.daemon.event("opened", address=str(guest))
    site.lab.client.run([*knock, "--close"], env=environment)
    site.daemon.event("closed", address=str(guest))
    assert not guest.gets_in()
