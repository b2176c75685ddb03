"""The one interface to the packet filter: nftables implements it, and so does the fake of the tests."""

from __future__ import annotations

from typing import Protocol

from doorward.core.diff import Remaining, SetChanges
from doorward.model import Element
from doorward.nftables.ruleset import Ruleset


class Firewall(Protocol):
    """The packet filter: nftables, or a fake in memory."""

    def load(self, ruleset: Ruleset, restore: Remaining) -> str:
        """Replace rules and tables in one transaction; keep the open entries, and add `restore`.

        Returns why `restore` was left out, or nothing: a gate without it is better than none.
        """

    def elements(self) -> dict[Element, float]:
        """Read the open entries back, with the seconds that each has left."""

    def apply(self, changes: SetChanges) -> None:
        """Make all changes in one transaction, or none."""

    def counters(self) -> dict[str, int]:
        """Read the gate's counters: packets, by name."""
