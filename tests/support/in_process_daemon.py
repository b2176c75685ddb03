"""The daemon's inside: everything is its own but the packet filter, which is in memory, and nothing listens."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any, cast

from doorward.config.schema import Gate
from doorward.core.diff import SetChanges
from doorward.daemon.bans import BanList
from doorward.daemon.control_commands import ControlCommands
from doorward.daemon.event_stream import Subscribers
from doorward.daemon.gate_loader import GateLoader
from doorward.daemon.hooks import HookQueue
from doorward.daemon.ledger import Ledger, read_records
from doorward.daemon.log import Log
from doorward.daemon.openings_service import OpeningsService
from doorward.daemon.ruleset_guard import RulesetGuard
from doorward.daemon.ruleset_loader import AppliedRuleset, LoadResult
from doorward.daemon.stats import EventStats
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
            raise HostError("nft-rejected", "nftables rejected the change: stuck")
        super().apply(changes)


class FakeGateLoader(GateLoader):
    """A ruleset that is loaded, and nothing that loads or watches one."""

    def __init__(self, openings: OpeningsService, firewall: Stuck) -> None:
        self.service, self.firewall = openings, firewall  # type: ignore[assignment]
        self.loop, self.log, self.hooks = openings.loop, openings.log, openings.hooks
        self.config = openings.ledger.path.with_name("doorward.toml")
        self.guard = cast(RulesetGuard, SimpleNamespace(is_busy=False, is_damaged=False, is_fresh=False, trouble=""))
        self.trouble = ""
        self.loaded = LoadResult(Gate(), DOORS, generation="0123abcd", states={}, commit=AppliedRuleset(0, b""))


class InProcessDaemon:
    """The openings and the commands, with a firewall in memory and nothing that listens."""

    def __init__(self, ledger: Ledger, log: Log) -> None:
        config, lock = ledger.path.with_name("doorward.toml"), ledger.path.with_name("lock")
        self.hooks = HookQueue(EventLoop(), log, config, lock)
        self.loop, self.log, self.ledger = self.hooks.loop, log, ledger
        self.firewall = Stuck(self.loop.now_s)
        self.openings = OpeningsService(ledger, self.hooks, log, self.firewall)
        self.openings.doors = self.doors = {door.name: door for door in DOORS}
        self.table = self.openings.table
        self.bans = BanList(ledger.path.with_name("bans.json"), self.firewall, log.message)
        subscribers, stats = Subscribers(), EventStats()
        log.listeners += [subscribers.publish, stats.count]
        self.gate = FakeGateLoader(self.openings, self.firewall)
        self.commands = ControlCommands(self.openings, self.gate, self.bans, subscribers, stats, self.describe)

    def describe(self) -> dict[str, object]:
        """Describe no worker."""
        return {"log_overflows": 0, "signed": None, "fleet": None}

    def close(self) -> None:
        self.hooks.close()
        os.waitpid(self.hooks._runner.pid, 0)
        self.ledger.close()
        self.loop.close()

    def ask(self, command: str, *words: object, **more: object) -> dict[str, Any]:
        """Ask as `doorward COMMAND DOOR ADDRESS` by root does."""
        named = dict(zip(("door", "address"), words, strict=False))
        answer = self.commands.answer({"command": command, "is_owner": True, **named, **more})
        assert isinstance(answer, dict)
        return answer

    def shows(self) -> list[tuple[str, str]]:
        """Give door and address of each opening in the status."""
        return [(shown["door"], shown["address"]) for shown in self.ask("status")["openings"]]

    def has(self) -> dict[Element, float]:
        """Return what the filter has, to the second."""
        return {entry: round(left_s) for entry, left_s in self.firewall.elements().items()}

    def openings_recorded(self) -> list[tuple[object, ...]]:
        """Give door, address and how it ended of each opening, by address."""
        records = [record for record in read_records(self.ledger.path, 0, 1000) if record.event == "opened"]
        records.sort(key=lambda record: (record.address, record.door))
        return [(record.door, record.address, record.detail["closed_by"]) for record in records]

    def recorded(self) -> list[tuple[object, ...]]:
        """Give door, address and how it ended of each record."""
        records = read_records(self.ledger.path, 0, 1000)
        return [(record.door, record.address, record.detail["closed_by"]) for record in records]
