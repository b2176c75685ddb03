"""Knocks in STUN frames, as browsers send them, at a real gate; tcpdump sees what it answers."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from doorward.daemon.browser_frames import MAX_ANSWERS
from doorward.lab.topology import Lab
from doorward.model import Address
from doorward.signed.envelope import CHECK_BYTES, RANDOM_BYTES, seal
from doorward.signed.message import CLOSE, CONFIRM, pack_body
from doorward.signed.reply import reply_secret
from doorward.signed.stun import TRANSACTION_BYTES, ice_password, success_response, transaction_of
from tests.support.daemon import Visitor
from tests.support.signed import PORT, Signer
from tests.support.signed_site import SENT_BY_GATE, SignedSite
from tests.support.stun import stun_request
from tests.support.tcpdump import tcpdump

pytestmark = pytest.mark.netns("nft", "tcpdump")

CONFIG = """
[gate]
mode = "{mode}"
[signed]
confirm = true
browser = {browser}
[doors.ssh]
opens = ["22/tcp"]
for = "10m"
"""
PORTS = 41_000, 41_001, 41_002  # of a visitor


class Knock:
    """One packet, and the frames that a browser makes of it."""

    def __init__(self, packet: bytes, password: bytes) -> None:
        self.packet, self.password = packet, password

    def frame(self, password: bytes = b"") -> bytes:
        return stun_request(self.packet, b"abcd", os.urandom(TRANSACTION_BYTES), password or self.password)

    def answer(self, frame: bytes, source: Address, port: int) -> bytes:
        return success_response(transaction_of(frame), source, port, self.password)


class Site(SignedSite):
    """A gate for browsers."""

    def __init__(self, lab: Lab, folder: Path, *, mode: str = "stealth", browser: str = "true") -> None:
        super().__init__(lab, folder, CONFIG.format(mode=mode, browser=browser))

    def knock(self, signer: Signer | None = None, flags: int = CONFIRM, **fields: object) -> Knock:
        own, server = signer or self.laptop, self.files.server
        body = pack_body(own.request(flags=flags, **fields))  # type: ignore[arg-type]
        plaintext = body + own.sign(server, body)
        packet = seal(server.public, plaintext, os.urandom(RANDOM_BYTES))
        return Knock(packet, ice_password(reply_secret(packet[:CHECK_BYTES], plaintext)))

    def confirmations(self) -> dict[str, int]:
        counts: dict[str, int] = self.daemon.ask("status")["signed"]["confirmations"]["counts"]
        return counts


@pytest.fixture
def site(direct_lab: Lab, tmp_path: Path) -> Iterator[Site]:
    site = Site(direct_lab, tmp_path)
    with site.running():
        yield site


@pytest.mark.parametrize("mode", ["observe", "guard", "stealth"])
def test_a_frame_opens_and_closes_and_is_answered(direct_lab: Lab, tmp_path: Path, mode: str) -> None:
    site = Site(direct_lab, tmp_path, mode=mode)
    with site.running() as daemon:
        for version in (4, 6):
            guest = site.visitors.fresh(version)
            for flags, event in ((CONFIRM, "opened"), (CONFIRM | CLOSE, "closed")):
                knock = site.knock(flags=flags)
                frame = knock.frame()
                assert site.exchange(guest, frame, own_port=PORTS[0]) == [knock.answer(frame, guest.source, PORTS[0])]
                assert daemon.event(event, address=str(guest))["by"] == "key laptop (browser)"
                daemon.event("confirmed", to=str(guest))
        assert site.confirmations() == {"sent": 4}
        counted = daemon.counters()
        assert (counted["browser"], counted["signed"]) == (4, 0)
        shown = daemon.run("status").stdout
        assert "signed knocks: ready on 62201/udp, 1 key; from browsers too, which sent 0 repeats" in shown
        assert "by key laptop (browser)" in daemon.run("log").stdout


def test_repeats_are_answered_as_often_as_the_limit_allows_and_not_recorded(site: Site) -> None:
    """As Chromium sends them, each with its own transaction, and as Firefox does, all the same."""
    with tcpdump(site.lab.server, *SENT_BY_GATE) as capture:
        for count, is_same in ((MAX_ANSWERS + 6, False), (5, True)):
            guest, knock = site.visitors.fresh(4), site.knock()
            frames = [knock.frame()] * count if is_same else [knock.frame() for _ in range(count)]
            expected = [knock.answer(frame, guest.source, PORTS[0]) for frame in frames]
            assert site.exchange(guest, *frames, own_port=PORTS[0], every_s=0.05) == expected[:MAX_ANSWERS]
            site.daemon.event("opened", address=str(guest))
        lengths = site.sent_by_gate(capture)
        assert len(lengths) == MAX_ANSWERS + 5
        assert len(set(lengths)) == 1
    assert site.confirmations() == {"sent": 2, "again": MAX_ANSWERS - 1 + 4}
    time.sleep(1.1)  # what is only counted is reported once per second
    site.exchange(site.visitors.fresh(4), site.knock().frame())
    status = site.daemon.ask("status")["signed"]
    assert (status["resent"], status["refused"]) == (MAX_ANSWERS + 5 + 4, {})
    assert not [each for each in site.daemon.events() if each["event"] == "refused"]


def test_nobody_else_is_answered(site: Site) -> None:
    """Copies from elsewhere and from another port, the bare packet, changed bits, wrong keys and times, garbage."""
    guest, thief = site.visitors.crowd(4, 2)
    knock = site.knock()
    frame = knock.frame()
    assert len(site.exchange(guest, frame, own_port=PORTS[0])) == 1
    with tcpdump(site.lab.server, *SENT_BY_GATE) as capture:
        assert site.exchange(thief, frame, knock.frame()) == []
        assert site.daemon.event("refused", address=str(thief))["reason"] == "signed knock: a copy of an earlier packet"
        assert site.exchange(guest, knock.frame(), own_port=PORTS[1]) == []
        assert site.exchange(guest, knock.packet, knock.frame(b"guessed"), own_port=PORTS[2]) == []
        stranger, late, other = Signer("stranger"), site.knock(ahead_ms=-61_500), site.knock(gate="another")
        fresh = site.knock()
        letters = bytearray(fresh.frame())
        changed = [bytes(letters[:at]) + bytes([letters[at] ^ 1]) + bytes(letters[at + 1 :]) for at in range(24, 278)]
        garbage = [
            stun_request(os.urandom(190), b"abcd", bytes(12), fresh.password),
            fresh.frame()[:-4],
            fresh.frame().replace(b":", b";"),
            b"\x00\x01\x01\x14\x21\x12\xa4\x42" + os.urandom(288),
        ]
        frames = [each.frame() for each in (site.knock(stranger), late, other)] + garbage
        assert site.exchange(thief, *frames, *changed, every_s=0.005) == []
        assert site.sent_by_gate(capture) == []
    opened = [each["address"] for each in site.daemon.events() if each["event"] == "opened"]
    assert opened == [str(guest)]
    refused = [each["reason"] for each in site.daemon.events() if each["event"] == "refused"]
    assert sum(reason.startswith("signed knock: by browser: ") for reason in refused) == 3


def test_a_first_frame_with_a_wrong_integrity_does_not_keep_the_right_one_from_its_answer(site: Site) -> None:
    guest, knock = site.visitors.fresh(4), site.knock()
    right = knock.frame()
    received = site.exchange(guest, knock.frame(b"guessed"), right, own_port=PORTS[0], every_s=0.2)
    assert received == [knock.answer(right, guest.source, PORTS[0])]
    assert site.daemon.event("unconfirmed", to=str(guest))["code"] == "integrity"


def test_without_browser_the_gate_is_silent(direct_lab: Lab, tmp_path: Path) -> None:
    site = Site(direct_lab, tmp_path, browser="false")
    with site.running() as daemon:
        guest = site.visitors.fresh(4)
        with tcpdump(site.lab.server, *SENT_BY_GATE) as capture:
            assert site.exchange(guest, site.knock().frame()) == []
            assert site.sent_by_gate(capture) == []
        assert (daemon.counters()["signed_length"], daemon.counters()["browser"]) == (1, 0)
        for browser, answers in (("true", 1), ("false", 0)):
            daemon.reload(CONFIG.format(mode="stealth", browser=browser))
            daemon.message("accepting signed knocks")
            assert len(site.exchange(guest, site.knock().frame())) == answers


def test_a_flood_of_frames_does_not_crowd_out_raw_knocks(site: Site) -> None:
    """From 200 addresses: garbage, and packets of an unknown key, which the verifier has to open."""
    guest, *flooders = site.visitors.crowd(4, 201)
    stranger = Signer("stranger")
    frames = [site.knock(stranger).frame() for _ in range(300)]
    frames += [stun_request(os.urandom(190), b"abcd", bytes(12), b"guessed") for _ in range(300)]
    is_over = threading.Event()
    begun_s = time.monotonic()
    flood = threading.Thread(target=site.lab.client.call, args=(flooding(flooders, frames, is_over),))
    flood.start()
    try:
        while not site.daemon.counters()["browser_budget_exceeded"]:
            time.sleep(0.05)
        for number in range(10):
            site.send(guest, site.laptop.packet(site.files.server))
            site.await_opened(number + 1)
    finally:
        is_over.set()
        flood.join()
    counted, took_s = site.daemon.counters(), time.monotonic() - begun_s
    assert counted["signed"] == 10
    assert counted["browser"] <= 200 + 500 + (200 + 2000) * (took_s + 1)
    assert counted["browser_budget_exceeded"] + counted["browser_throttled"] > 1000


def flooding(flooders: list[Visitor], frames: list[bytes], is_over: threading.Event) -> Callable[[], None]:
    def go() -> None:
        sockets = []
        for flooder in flooders:
            sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sender.bind((str(flooder.source), 0))
            sender.connect((str(flooder.server), PORT))
            sockets.append(sender)
        while not is_over.is_set():
            for number, sender in enumerate(sockets):
                for at in range(3):
                    sender.send(frames[(3 * number + at) % len(frames)])
        for sender in sockets:
            sender.close()

    return go
