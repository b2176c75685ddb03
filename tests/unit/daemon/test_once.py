"""Openings for one connection: what the kernel reports, and what it did not."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from doorward.core.openings import Announce, Reject
from doorward.daemon import repairs
from doorward.daemon.knock_events import KnockEvents
from doorward.daemon.ledger import Ledger, read_records
from doorward.daemon.log import Log, text_of
from doorward.daemon.nflog_reader import NflogReader
from doorward.daemon.stats import EventStats
from doorward.fleet.admission import Limits, Rejected, admit
from doorward.fleet.etcd_records import OpeningKey
from doorward.fleet.protocol import Item
from doorward.kernel.nflog import NflogEvent
from doorward.model import Opening, Share, parse_source
from tests.support.in_process_daemon import InProcessDaemon
from tests.support.openings import door, element

HOME = ip_address("192.0.2.7")
E22 = element("192.0.2.7 22/tcp once")
USED = NflogEvent("0123abcd", "used", 0, HOME, 0, 4711)
KNOCK = NflogEvent("0123abcd", "knock", 7, HOME)


class Gate(InProcessDaemon):
    """A daemon whose door ssh opens for one connection, and what its process that reads packets sends."""

    def __init__(self, folder: Path) -> None:
        self.written = io.StringIO()
        super().__init__(Ledger(folder / "ledger.sqlite3"), Log("json", self.written))
        self.doors["ssh"] = door("ssh", "22/tcp", once=True)
        self.announced: list[Announce | Reject] = []
        self.openings.listeners.append(cast("object", SimpleNamespace(announce=self.announced.extend)))  # type: ignore[arg-type]
        self._sent: list[NflogEvent] | None = []
        reader = cast(NflogReader, SimpleNamespace(read=lambda: self._sent, loss="the kernel's log overflowed"))
        self.events = KnockEvents(reader, self.openings, self.gate, self.bans, EventStats())
        self.events._states = {"0123abcd": {7: ("ssh",)}}

    def report(self, *events: NflogEvent) -> None:
        self._sent = list(events)
        self.events.read()

    def overflow(self) -> None:
        self._sent = None
        self.events.read()

    def use(self) -> None:
        """Remove the element, as the kernel does for the connection."""
        del self.firewall._until_s[E22]

    def closed(self) -> list[object]:
        lines = [json.loads(line) for line in self.written.getvalue().splitlines()]
        return [line["by"] for line in lines if line["event"] == "closed"]


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    gate = Gate(tmp_path)
    yield gate
    gate.close()


def test_use_ends_the_opening_everywhere(gate: Gate) -> None:
    gate.ask("open", "ssh", "192.0.2.7")
    assert gate.has() == {E22: 30}
    gate.use()
    gate.report(USED)
    assert (gate.shows(), gate.closed()) == ([], ["use from port 4711"])
    assert gate.openings_recorded() == [("ssh", "192.0.2.7", "use from port 4711")]
    assert [(each.event, each.by) for each in gate.announced if isinstance(each, Announce)] == [
        ("opened", "hand"),
        ("closed", "use from port 4711"),
    ]


def test_use_of_unknown_source_port(gate: Gate) -> None:
    gate.ask("open", "ssh", "192.0.2.7")
    gate.use()
    gate.report(USED._replace(source_port=0))
    assert gate.closed() == ["use"]


def test_forged_and_late_reports_end_nothing(gate: Gate) -> None:
    """The process that reads packets was taken over, or the address has knocked again since then."""
    gate.ask("open", "ssh", "192.0.2.7")
    gate.ask("open", "web", "192.0.2.7")
    gate.report(USED, USED._replace(source=ip_address("192.0.2.8")))
    assert gate.shows() == [("ssh", "192.0.2.7"), ("web", "192.0.2.7")]


def test_knock_and_use_in_one_message(gate: Gate) -> None:
    gate.report(KNOCK, USED)
    assert (gate.shows(), gate.has()) == ([], {})
    assert gate.openings_recorded() == [("ssh", "192.0.2.7", "use from port 4711")]


@pytest.mark.parametrize("messages", [[[USED, KNOCK]], [[USED], [KNOCK]]])
def test_use_may_be_reported_before_its_knock(gate: Gate, messages: list[list[NflogEvent]]) -> None:
    """Two processors report."""
    for events in messages:
        gate.report(*events)
    assert (gate.shows(), gate.has(), gate.closed()) == ([], {}, ["use from port 4711"])


def test_early_uses_are_bounded(gate: Gate) -> None:
    gate.report(*(USED._replace(source=HOME + number) for number in range(500)))
    assert len(gate.events._early_uses) <= 101


def test_overflow_reads_the_sets_first(gate: Gate) -> None:
    gate.ask("open", "ssh", "192.0.2.7")
    gate.use()
    gate.overflow()
    assert (gate.shows(), gate.has(), gate.closed()) == ([], {}, ["use"])


def test_repair_does_not_restore_it(gate: Gate) -> None:
    gate.ask("open", "ssh", "192.0.2.7")
    gate.ask("open", "web", "192.0.2.7")
    assert E22 not in repairs.remaining(gate.openings)
    gate.use()
    repairs.fill(gate.openings, (), "")
    assert (gate.shows(), gate.closed()) == ([("web", "192.0.2.7")], ["lost"])


def test_knock_on_a_previous_ruleset_is_not_made_good(gate: Gate) -> None:
    gate.gate.guard = cast("object", SimpleNamespace(is_fresh=True, is_busy=False, is_damaged=False, trouble=""))  # type: ignore[assignment]
    gate.report(KNOCK)
    assert (gate.shows(), gate.has(), gate.closed()) == ([], {}, ["lost"])


def test_newest_knock_sets_the_end(gate: Gate) -> None:
    gate.ask("open", "ssh", "192.0.2.7", **{"for": "10m"})
    gate.ask("open", "ssh", "192.0.2.7", **{"for": "1m"})
    assert gate.has() == {E22: 60}
    (shown,) = gate.ask("status")["openings"]
    assert round(shown["until"] - shown["since"]) == 60


def test_ledger_keeps_what_is_for_one_connection(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite3")
    share = Share("ada", 1030.0, 5, "key ada", once=True)
    opening = Opening("ssh", HOME, (E22.port,), 1000.0, 1030.0, "key ada", (share,))
    ledger.opened(opening)
    ledger._write("UPDATE openings SET shares = ? WHERE id = 1", ('[["ada", 0, 5, "key ada", true]]',))
    assert ledger.active() == [opening]
    ledger._write(
        "UPDATE openings SET shares = ? WHERE id = 1", ('[["ada", 0, 5, "key ada"]]',)
    )  # of an earlier version
    assert ledger.active() == [opening._replace(shares=(share._replace(once=False),))]
    assert [record.event for record in read_records(ledger.path, 0, 10)] == ["opened"]
    ledger.close()


def test_log_line_says_who_used_it_and_after_how_long() -> None:
    fields = {"door": "ssh", "address": "192.0.2.7", "for_s": 2.0, "ports": ["22/tcp"], "by": "use from port 4711"}
    assert text_of("closed", fields) == "used ssh to 192.0.2.7 after 2s from port 4711, for one connection"


def test_fleet_opens_for_one_connection_where_the_door_does() -> None:
    once = door("ssh", "22/tcp", once=True)._replace(shared=True)

    def admitted(address: str) -> object:
        return admit(Item(OpeningKey("ssh", parse_source(address)), 5000, "knock at b", 5000), once, LIMITS, 0)

    found = admitted("192.0.2.7")
    assert isinstance(found, Opening)
    assert found.elements() == (E22,)
    rejected = admitted(str(ip_network("10.1.0.0/16")))
    assert isinstance(rejected, Rejected)
    assert rejected.reason == "once"


LIMITS = Limits(None, allows_networks=True)
