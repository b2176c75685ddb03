"""The daemon's view of the shield's map of openings (openings.h), in memory that both share."""

from __future__ import annotations

import math
import mmap

from doorward.errors import HostError
from doorward.model import Address, Source
from doorward.shield.tables import OPENING_MARGIN_S, network_key

SLOTS_SHIFT = 14  # as in openings.h
SLOTS = 1 << SLOTS_SHIFT
_SLOT_BYTES = 16
_MAP_BYTES = (SLOTS + 1) * _SLOT_BYTES
_MULTIPLIER, _WORD = 0x9E3779B97F4A7C15, (1 << 64) - 1
_NEVER_S = 1 << 62


class OpeningSlots:
    """Notes for the shield which sources may have an opening; the rest of hidden ports is closed."""

    def __init__(self, descriptor: int) -> None:
        """Map the map with this descriptor. HostError: that is not possible."""
        self.is_complete = False
        try:
            self._mapped = mmap.mmap(descriptor, _MAP_BYTES)
            self._mapped.madvise(mmap.MADV_DONTFORK)  # a process that reads packets must not be able to close ports
        except (OSError, ValueError) as error:
            raise HostError("shield-openings", f"the shield's openings cannot be mapped: {error}") from None
        self._words = memoryview(self._mapped).cast("Q")

    def note(self, source: Source, until_s: float) -> None:
        """Note that a source, or all in a network, may have an opening until then, on CLOCK_MONOTONIC."""
        slot = slot_of(source)
        end_s = _NEVER_S if math.isinf(until_s) else math.ceil(until_s) + OPENING_MARGIN_S
        self._words[2 * slot] = max(self._words[2 * slot], min(end_s, _NEVER_S))

    def complete(self) -> None:
        """Tell the shield that all openings are noted: from now on it drops what is closed."""
        self.is_complete = True
        self._words[2 * SLOTS + 1] = 1

    def close(self) -> None:
        """Unmap it."""
        self._words.release()
        self._mapped.close()


def slot_of(source: Source) -> int:
    """Return the slot of a source; SLOTS, that of everyone, for a network that has several."""
    smallest = 32 if source.version == 4 else 64
    if not isinstance(source, Address) and source.prefixlen < smallest:
        return SLOTS
    return (int.from_bytes(network_key(source), "little") * _MULTIPLIER & _WORD) >> (64 - SLOTS_SHIFT)
