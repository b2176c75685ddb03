"""The daemon's side of the shield: what it sends to the loader, and what a loader that hangs or ends changes."""

from __future__ import annotations

import io
import json
import os
import socket
import time
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from types import SimpleNamespace
from typing import Any, cast

import pytest

from doorward.config.schema import Gate, Mode, Shield
from doorward.daemon import shield_process
from doorward.daemon.log import Log
from doorward.daemon.ruleset_loader import AppliedRuleset, LoadResult
from doorward.daemon.shield_process import ShieldControl
from doorward.kernel.event_loop import EventLoop
from doorward.nftables.nft_error import NftError
from doorward.nftables.ruleset import Existing
from doorward.shield.report import COUNTERS, MAX_ATTACHED, REPORT_BYTES, ShieldReport, parse_report
from doorward.shield.tables import parse_bans

REPORT = {"interfaces": ["eth0"], "counters": dict.fromkeys(COUNTERS, 3), "trouble": ""}


class Table:
    """The kernel's table, which may be missing."""

    def __init__(self) -> None:
        self.is_there = True
        self.listed: list[str] = []
        self.bans: list[object] = []

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

        def receive(size: int) -> bytes:
            return ours.recv(size)

        worker = SimpleNamespace(socket=ours, fileno=ours.fileno, receive=receive, close=ours.close)
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

    def answer(self, **fields: object) -> None:
        self.loader.send(json.dumps({**REPORT, **fields}).encode())
        self.control._read()

    def trouble(self) -> str:
        return str((self.control.as_dict() or {})["trouble"])


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
        "wanted": "auto", "interfaces": [], "counters": {}, "trouble": "no door has a port sequence",
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
    report = ShieldReport(names, dict.fromkeys(COUNTERS, (1 << 64) - 1), "\U0001f6aa\n" * 1000)
    raw = report.pack()
    assert len(raw) < REPORT_BYTES
    assert parse_report(raw) == report._replace(trouble="\U0001f6aa?" * 250)


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
