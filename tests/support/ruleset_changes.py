"""Who changes nf_tables on a lab's host, and when."""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from doorward.lab.namespace import NamespaceHost
from doorward.nftables.monitor import RulesetChange, RulesetMonitor
from tests.support.daemon import PATIENCE_S


class Moment(NamedTuple):
    """A transaction, and when it was heard of."""

    change: RulesetChange
    at_s: float


class RulesetChanges:
    """The transactions on a host since this was made."""

    def __init__(self, host: NamespaceHost) -> None:
        self._watch = host.call(RulesetMonitor)
        self.heard: list[Moment] = []

    def wait_for(self, matches: Callable[[RulesetChange], bool], after: int = 0) -> int:
        """Wait for a transaction; give its place among those heard."""
        deadline_s = time.monotonic() + PATIENCE_S
        while True:
            for place, moment in enumerate(self.heard[after:], after):
                if matches(moment.change):
                    return place
            assert time.monotonic() < deadline_s, f"no such transaction among {self.heard[after:]}"
            select.select([self._watch], [], [], PATIENCE_S)
            self.listen()

    def listen(self) -> None:
        """Take what is there."""
        changes = self._watch.read()
        assert changes is not None, "too many to be heard"
        now_s = time.monotonic()
        self.heard += [Moment(change, now_s) for change in changes]

    def repair(self, after: int = 0) -> int:
        """Wait for doorward's next change of the rules."""
        return self.wait_for(lambda change: change.scope == "rules" and not change.program.startswith("nft"), after)

    def close(self) -> None:
        self._watch.close()


@contextmanager
def recorded_changes(host: NamespaceHost) -> Iterator[RulesetChanges]:
    """Listen until the end of the block."""
    changes = RulesetChanges(host)
    try:
        yield changes
    finally:
        changes.close()
