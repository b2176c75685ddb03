"""An in-memory firewall for tests of the daemon; it passes the same contract tests as nftables."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable

from doorward.core.diff import Remaining, SetChanges
from doorward.model import Element, Source
from doorward.nftables.ban_sets import Bans
from doorward.nftables.nfnetlink import GateUsage
from doorward.nftables.nft_error import NftError
from doorward.nftables.ruleset import COUNTERS, OPEN_SIZE, Ruleset


class FakeFirewall:
    """Elements with their expiry on the given clock."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._until_s: dict[Element, float] = {}
        self._banned_until_s: dict[Source, float] = {}
        self.ruleset: Ruleset | None = None

    def load(self, ruleset: Ruleset, restore: Remaining) -> str:
        """Replace the ruleset; elements stay."""
        self.ruleset = ruleset
        try:
            self.apply(SetChanges(restore, frozenset()))
        except NftError as error:
            return str(error)
        return ""

    def elements(self) -> dict[Element, float]:
        """Return the open elements, with the remaining seconds of each."""
        return self._current()

    def _current(self) -> dict[Element, float]:
        now_s = self._clock()
        self._until_s = {element: until for element, until in self._until_s.items() if until > now_s}
        return {element: until - now_s for element, until in self._until_s.items()}

    def present(self, elements: Iterable[Element]) -> frozenset[Element]:
        """Return those of these elements that are there."""
        return frozenset(elements) & self._current().keys()

    def apply(self, changes: SetChanges) -> None:
        """Make all changes, or none."""
        current = self._current()  # not a read of the sets, which tests count
        if not changes.remove <= current.keys():
            raise NftError("Error: an element to remove does not exist", errno.ENOENT)
        after = current.keys() - changes.remove | changes.put.keys()
        if any(sum(e.address.version == v for e in after) > OPEN_SIZE for v in (4, 6)):
            raise NftError("Error: the set of openings is full", errno.ENFILE)
        for element in changes.remove:
            del self._until_s[element]
        now_s = self._clock()
        self._until_s.update({element: now_s + left for element, left in changes.put.items()})

    def counters(self) -> dict[str, int]:
        """Return zero for each counter: there are no packets."""
        return dict.fromkeys(COUNTERS, 0)

    def ban(self, new: Bans) -> None:
        """Add bans, each with its remaining seconds."""
        self._banned_until_s |= {ban: self._clock() + left_s for ban, left_s in new.items()}

    def unban(self, ban: Source) -> None:
        """Remove a ban, if there is one."""
        self._banned_until_s.pop(ban, None)

    def banned(self) -> dict[Source, float]:
        """Return the bans, with the remaining seconds of each."""
        now_s = self._clock()
        return {ban: until_s - now_s for ban, until_s in self._banned_until_s.items() if until_s > now_s}

    def gauges(self, _: int) -> GateUsage:
        """Return no usage and no attempts: there are no packets."""
        return GateUsage([], [])
