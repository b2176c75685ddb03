"""The daemon's side of the shield: what it sends to the loader, and what a loader that hangs or ends changes."""

from __future__ import annotations

import io
import json
import os
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import ip_address, ip_network
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import ANY

import pytest

from doorward.config.schema import Gate, Mode, Shield
from doorward.daemon import shield_process
from doorward.daemon.log import Log
from doorward.daemon.ruleset_loader import AppliedRuleset, LoadResult
from doorward.daemon.shield_process import ShieldControl
from doorward.kernel.child_process import run_in_child
from doorward.kernel.event_loop import EventLoop
from doorward.model import Element, Port, Source
from doorward.nftables.nft_error import NftError
from doorward.nftables.ruleset import Existing
from doorward.shield.opening_slots import SLOTS, slot_of
from doorward.shield.report import COUNTERS, MAX_ATTACHED, REPORT_BYTES, ShieldReport, parse_report
from doorward.shield.tables import parse_bans

REPORT = {
    "interfaces": ["eth0"], "at_xdp": [], "no_xdp": "", "counters": dict.fromkeys(COUNTERS, 3), "trouble": "",
}  # fmt: skip
SLOT_BYTES = 16
GUEST, OTHER = ip_address("192.0.2.7"), ip_address("192.0.2.8")


class Table:
    """The kernel's table, which may be missing."""

    def __init__(self) -> None:
        self.is_there = True
        self.listed: list[str] = []
        self.bans: list[object] = []
        self.open: dict[Element, float] = {}

    def elements(self) -> dict[Element, float]:
        if not self.is_there:
            raise NftError("Error: No such file or directory")
        return self.open

    def ban(self, bans: object) -> None:
        self.bans.append(bans)

    unban = ban

    def existing(self) -> list[Existing]:
        return [Existing("set", "shielded", 256)] if self.is_there else []

    def run(self, commands: str) -> str:
        if not self.is_there:
            raise NftError("Error: No such file or directory")
        self.listed += [line for line in commands.splitlines() if line.startswith("add element")]
        return ""


class Site:
    """A control whose loader is this test, at the other end of the socket."""

    def __init__(self) -> None:
        ours, self.loader = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.loader.settimeout(1)
        self.table, self.written, self.loop = Table(), io.StringIO(), EventLoop()

        def receive(size: int) -> tuple[bytes, list[int]]:
            return socket.recv_fds(ours, size, 1)[:2]

        worker = SimpleNamespace(socket=ours, fileno=ours.fileno, receive_with_descriptors=receive, close=ours.close)
        self.control = ShieldControl(cast(Any, worker), self.loop, cast(Any, self.table), Log("text", self.written))

    def configure(self, shield: Shield, tables: bytes = b"tables", reason: str = "") -> None:
        gate = Gate(mode=Mode.STEALTH, shield=shield)
        commit = AppliedRuleset(1, b"")
        self.control.configure(
            LoadResult(gate, (), generation="", states={}, commit=commit, shield=tables, no_shield=reason)
        )

    def request(self) -> tuple[bytes, bytes]:
        """Return the next request and the tables that came with it."""
        words, descriptors, _, _ = socket.recv_fds(self.loader, 16, 1)
        tables = b""
        for descriptor in descriptors:
            tables = os.pread(descriptor, 100, 0)
            os.close(descriptor)
        return words, tables

    def answer(self, *descriptors: int, **fields: object) -> None:
        socket.send_fds(self.loader, [json.dumps({**REPORT, **fields}).encode()], descriptors)
        self.control._read()

    def trouble(self) -> str:
        return str((self.control.as_dict() or {})["trouble"])

    def waiting(self) -> Counter[bytes]:
        """Return how many requests of each kind are waiting."""
        self.loader.settimeout(0)
        found = Counter[bytes]()
        with suppress(BlockingIOError):
            while True:
                found[self.request()[0]] += 1
        return found


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(shield_process, "remove_filters", lambda: None)
    site = Site()
    yield site
    site.control.close()
    site.loader.close()
    site.loop.close()


def test_tables_go_to_the_loader_and_interfaces_to_the_set(site: Site) -> None:
    site.configure(Shield.ON)
    assert site.request() == (b"load", b"tables")
    site.answer()
    assert site.table.listed == ['add element inet doorward shielded { "eth0" }']
    assert site.control.as_dict() == {"wanted": "on", **REPORT}


def test_shield_that_is_off_sends_nothing(site: Site) -> None:
    site.configure(Shield.OFF, b"")
    site.loader.setblocking(False)
    with pytest.raises(BlockingIOError):
        site.request()
    assert site.control.as_dict() is None


def test_gate_without_a_shield_ends_it(site: Site) -> None:
    site.configure(Shield.AUTO)
    site.request()
    site.answer()
    site.configure(Shield.AUTO, b"", "no door has a port sequence")
    assert site.request() == (b"end", b"")
    site.answer(interfaces=["late"])
    assert site.control.as_dict() == {
        "wanted": "auto", "interfaces": [], "at_xdp": [], "no_xdp": "", "counters": {},
        "trouble": "no door has a port sequence",
    }  # fmt: skip


def test_missing_table_ends_it_until_it_is_restored(site: Site) -> None:
    site.configure(Shield.ON)
    site.request()
    site.answer()
    site.table.is_there = False
    site.control._renew()
    assert site.request() == (b"end", b"")
    assert "inet doorward" in site.trouble()
    site.table.is_there = True
    site.control.follow_gate()
    assert site.request() == (b"load", b"tables")
    site.answer()
    assert site.trouble() == ""
    site.control._renew()
    assert site.request() == (b"renew", b"")


def test_it_drops_nothing_while_the_gate_is_replaced(site: Site) -> None:
    site.control.gate_changes(True)  # at the start
    site.configure(Shield.ON)
    site.control.gate_changes(False)
    assert [site.request() for _ in range(2)] == [(b"load", b"tables"), (b"renew", b"")]
    site.control.gate_changes(True)
    site.control._renew()  # of a load that takes long
    site.configure(Shield.ON, b"other")
    site.control.gate_changes(False)
    assert [site.request()[0] for _ in range(4)] == [b"pass", b"pass", b"load", b"renew"]


def test_loader_that_hangs_does_not_block_the_daemon(site: Site) -> None:
    site.configure(Shield.ON)
    for _ in range(10_000):
        site.control._renew()
        if site.trouble():
            break
    assert "does not answer" in site.trouble()


def test_tables_that_were_not_sent_are_sent_later(site: Site) -> None:
    """Until then the program before is not renewed, and drops nothing for long."""
    site.configure(Shield.ON)
    while not site.trouble():
        site.control.unban(GUEST)
    site.configure(Shield.ON, b"other")
    assert site.waiting() == {b"load": 1, b"bans": ANY}
    site.control.gate_changes(False)
    site.control._renew()
    assert site.request() == (b"load", b"other")


def test_openings_are_noted_once_the_gate_is_restored(site: Site, openings: int) -> None:
    """What a process restores is not there yet."""
    site.configure(Shield.ON)
    site.control.gate_changes(True)
    site.answer(openings)
    assert not is_complete(openings)
    site.table.open = {Element(GUEST, Port.parse("22/tcp")): 60.0}
    site.control.gate_changes(False)
    assert is_complete(openings)
    assert noted(openings, GUEST)


def test_no_process_inherits_the_map(site: Site, openings: int) -> None:
    """One that reads what outsiders send could close every port."""
    site.configure(Shield.ON)
    site.answer(openings)

    def mapped() -> bool:
        return "memfd:openings" in Path("/proc/self/maps").read_text()

    assert mapped()
    assert not run_in_child(mapped)


def test_loader_that_ends_is_reported_once(site: Site) -> None:
    site.configure(Shield.ON)
    site.request()
    site.answer()
    site.loader.close()
    site.control._read()
    assert "its process ended" in site.trouble()
    assert site.control.as_dict() is not None
    site.control._renew()
    assert site.written.getvalue().count("its process ended") == 1
    site.configure(Shield.ON)
    assert "its process is not running" in site.trouble()


@pytest.mark.parametrize(
    "raw",
    [
        b"{", b"[]", b"3", b"\xff", b"[" * 65_000, b'{"trouble": ""}', b"9" * 5000,
        *(
            json.dumps({**REPORT, **fields}).encode()
            for fields in (
                {"trouble": None}, {"trouble": "x" * 501}, {"trouble": "\x1b"}, {"interfaces": None},
                {"interfaces": [3]}, {"interfaces": ['a" }; flush ruleset #']}, {"interfaces": ["x" * 16]},
                {"interfaces": [f"eth{n}" for n in range(MAX_ATTACHED + 1)]}, {"counters": 3},
                {"counters": {"dropped": 3}}, {"counters": dict.fromkeys(COUNTERS, -1)},
                {"counters": dict.fromkeys(COUNTERS, True)}, {"counters": dict.fromkeys(COUNTERS, 1 << 64)},
                {"at_xdp": None}, {"at_xdp": ["eth1"]}, {"at_xdp": [["eth0"]]}, {"no_xdp": None}, {"no_xdp": "x" * 501},
            )
        ),
    ],
)  # fmt: skip
def test_invalid_report_ends_the_loader(site: Site, raw: bytes) -> None:
    """Not the daemon, which a loader of another version may outlive."""
    site.configure(Shield.ON)
    site.loader.send(raw)
    site.control._read()
    assert "sent an invalid report" in site.trouble()
    assert site.table.listed == []
    with pytest.raises(BrokenPipeError):
        site.loader.send(b"")


def test_longest_report_fits_in_a_message() -> None:
    names = tuple(f"{n:x>15}" for n in range(MAX_ATTACHED))
    text, shown = "\U0001f6aa\n" * 1000, "\U0001f6aa?" * 250
    report = ShieldReport(names, dict.fromkeys(COUNTERS, (1 << 64) - 1), text, at_xdp=names, no_xdp=text)
    raw = report.pack()
    assert len(raw) < REPORT_BYTES
    assert parse_report(raw) == report._replace(trouble=shown, no_xdp=shown)


@pytest.fixture
def openings() -> Iterator[int]:
    """Memory in place of the program's map of openings."""
    descriptor = os.memfd_create("openings")
    os.truncate(descriptor, SLOT_BYTES * (SLOTS + 1))
    yield descriptor
    os.close(descriptor)


def noted(openings: int, source: Source) -> bool:
    return any(os.pread(openings, 8, SLOT_BYTES * slot_of(source)))


def is_complete(openings: int) -> bool:
    return any(os.pread(openings, 8, SLOT_BYTES * SLOTS + 8))


def test_openings_are_noted_before_hidden_ports_are_closed(site: Site, openings: int) -> None:
    """Those that the gate has, and what opens after."""
    site.table.open = {Element(GUEST, Port.parse("22/tcp")): 60.0}
    site.configure(Shield.ON)
    site.control.note_opening(OTHER, time.monotonic())  # there is no map yet
    site.answer(openings)
    assert [noted(openings, source) for source in (GUEST, OTHER)] == [True, False]
    assert is_complete(openings)
    site.control.note_opening(OTHER, time.monotonic())
    assert noted(openings, OTHER)


def test_hidden_ports_stay_open_at_the_shield_while_the_openings_are_unknown(site: Site, openings: int) -> None:
    """The table may be missing when the map comes: a renewal reads it again."""
    site.configure(Shield.ON)
    site.table.is_there = False
    site.answer(openings)
    assert not is_complete(openings)
    site.table.is_there, site.table.open = True, {Element(GUEST, Port.parse("22/tcp")): 60.0}
    site.control._renew()
    assert noted(openings, GUEST)
    assert is_complete(openings)


def test_missing_xdp_is_logged_once(site: Site) -> None:
    site.configure(Shield.XDP)
    for _ in range(2):
        site.answer(no_xdp="eth0 has VLANs")
    assert site.written.getvalue().count("eth0 has VLANs") == 1
    assert (site.control.as_dict() or {})["no_xdp"] == "eth0 has VLANs"
    assert site.trouble() == ""
    site.answer(at_xdp=["eth0"])
    assert (site.control.as_dict() or {})["at_xdp"] == ["eth0"]


def test_bans_go_to_the_gate_and_to_the_loader(site: Site) -> None:
    ban, other = ip_address("192.0.2.7"), ip_network("2001:db8:a:b::/64")
    site.control.ban({ban: 60.0, other: 3600.0})
    site.control.unban(ban)
    assert site.table.bans == [{ban: 60.0, other: 3600.0}, ban]
    request, form = site.request()
    ends = parse_bans(form)
    assert request == b"bans"
    assert [round(end_ns / 1e9 - time.monotonic(), -1) for end_ns in ends.values()] == [60, 3600]
    assert site.request() == (b"bans", next(iter(ends)) + bytes(8))
