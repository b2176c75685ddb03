"""The daemon's inside: everything is its own but the packet filter, which is in memory, and nothing listens."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

from doorward.config.schema import Gate
from doorward.core.diff import SetChanges
from doorward.core.openings import OpeningTable
from doorward.daemon import control_commands
from doorward.daemon.bans import BanList
from doorward.daemon.control_socket import DeferredReply
from doorward.daemon.daemon import Daemon
from doorward.daemon.event_stream import Subscriber, Subscribers
from doorward.daemon.hooks import HookQueue
from doorward.daemon.ledger import Ledger, read_records
from doorward.daemon.log import Log
from doorward.daemon.pending import Pending
from doorward.daemon.ruleset_loader import AppliedRuleset, LoadResult
from doorward.daemon.stats import EventStats, KernelStats
from doorward.errors import HostError
from doorward.kernel.event_loop import EventLoop
from doorward.model import Element
from doorward.nftables.fake import FakeFirewall
from tests.support.openings import door

DOORS = (door("ssh", "22/tcp"), door("web", "80/tcp 443/tcp", for_ms=600_000), door("admin", "22/tcp 80/tcp"))


class Stuck(FakeFirewall):
    """Refuses every change while it is `stuck`."""

    stuck = False

    def apply(self, changes: SetChanges) -> None:
        if self.stuck:
            raise HostError("nftables rejected the change: stuck")
        super().apply(changes)


class Whole:
    """Healing that never finds the gate damaged."""

    trouble, is_damaged, is_fresh = "", False, False

    def suspect(self) -> None:
        """Find it whole."""


class InsideDaemon(Daemon):
    """The daemon's inside, with a filter in memory and nothing that listens."""

    filter: Stuck  # type: ignore[assignment]
    healing: SimpleNamespace  # type: ignore[assignment]

    def __init__(self, ledger: Ledger, log: Log) -> None:
        self.errands = HookQueue(
            EventLoop(), log, ledger.path.with_name("doorward.toml"), ledger.path.with_name("lock")
        )
        self.loop, self.log, self.ledger = self.errands.loop, log, ledger
        self.book = OpeningTable()
        self.filter = Stuck(self.loop.now_s)
        self.healing = Whole()  # type: ignore[assignment]
        self.restored, self.trouble = (), ""
        self.missed = 0
        self.bans = BanList(ledger.path.with_name("bans.json"), self.filter, log.message)
        self.followers = Subscribers(self.loop)
        self.numbers, self.gauging = EventStats(), KernelStats()
        log.listeners += [self.followers.publish, self.numbers.count]
        self.config = ledger.path.with_name("doorward.toml")
        self._timer_s = float("inf")
        self.pending = Pending(self)
        self.loaded = LoadResult(Gate(), DOORS, "0123abcd", {}, AppliedRuleset(0, b""))
        self.doors = {door.name: door for door in DOORS}
        self.healing = SimpleNamespace(is_busy=False, trouble="")

    def close(self) -> None:
        self.errands.close()
        os.waitpid(self.errands._runner.pid, 0)
        self.ledger.close()
        self.loop.close()

    def ask(self, command: str, *words: object, **more: object) -> dict[str, Any]:
        """Ask as `doorward COMMAND DOOR ADDRESS` by root does."""
        named = dict(zip(("door", "address"), words, strict=False))
        answer = control_commands.answer(self, {"command": command, "is_owner": True, **named, **more})
        assert not isinstance(answer, DeferredReply | Subscriber)
        return answer

    def shows(self) -> list[tuple[str, str]]:
        """Give door and address of each opening in the status."""
        return [(shown["door"], shown["address"]) for shown in self.ask("status")["openings"]]

    def has(self) -> dict[Element, float]:
        """Give what the filter has, to the second."""
        return {entry: round(left_s) for entry, left_s in self.filter.elements().items()}

    def openings_recorded(self) -> list[tuple[object, ...]]:
        """Give door, address and how it ended of each opening, by address."""
        records = [record for record in read_records(self.ledger.path, 0, 1000) if record.event == "opened"]
        records.sort(key=lambda record: (record.address, record.door))
        return [(record.door, record.address, record.detail["closed_by"]) for record in records]

    def recorded(self) -> list[tuple[object, ...]]:
        """Give door, address and how it ended of each record."""
        records = read_records(self.ledger.path, 0, 1000)
        return [(record.door, record.address, record.detail["closed_by"]) for record in records]
