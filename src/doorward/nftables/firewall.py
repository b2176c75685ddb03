"""The interface to the packet filter; nftables implements it, and so does the fake for tests."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from doorward.core.diff import Remaining, SetChanges
from doorward.model import Element
from doorward.nftables.ruleset import Ruleset


class Firewall(Protocol):
    """The packet filter: nftables, or a fake in memory."""

    def load(self, ruleset: Ruleset, restore: Remaining) -> str:
        """Replace rules and maps in one transaction; keep the open elements, and add `restore`.

        Returns the reason why `restore` was left out, or "": a gate without it is better than none.
        """

    def elements(self) -> dict[Element, float]:
        """Return the open elements, with the remaining seconds of each."""

    def present(self, elements: Iterable[Element]) -> frozenset[Element]:
        """Return those of these elements that are there."""

    def apply(self, changes: SetChanges) -> None:
        """Make all changes in one transaction, or none."""

    def counters(self) -> dict[str, int]:
        """Return the gate's counters: packets by name."""
