"""The ban list, saved in a file next to the ledger, so that bans survive restarts and reboots."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from doorward.errors import NegativeResult
from doorward.kernel import atomic_file
from doorward.kernel.owner_rights import owner_rights
from doorward.model import Address, Source, parse_source
from doorward.nftables.ban_sets import Bans as Remaining
from doorward.nftables.ban_sets import ban_network, covers

NAME = "bans.json"  # in the state directory
MAX_BANS = 10_000  # a file of half a megabyte; longer lists belong into a set of the firewall


class BanFirewall(Protocol):
    """The packet filter's part in bans."""

    def ban(self, bans: Remaining) -> None:
        """Add these bans, each with its remaining seconds."""

    def unban(self, ban: Source) -> None:
        """Remove a ban."""


class BanList:
    """The active bans. Times are since the epoch, so that a ban survives a reboot."""

    def __init__(self, path: Path, gate: BanFirewall, say: Callable[[str, str], None]) -> None:
        self._path, self._gate, self._say = path, gate, say
        self._until_s: dict[Source, float] = read_bans(path)

    def active(self) -> dict[Source, float]:
        """Return the banned addresses and networks, each with its end."""
        now_s = time.time()
        for ban in [ban for ban, until_s in self._until_s.items() if until_s <= now_s]:
            del self._until_s[ban]
        return dict(self._until_s)

    def restore(self) -> None:
        """Add all bans to a ruleset that was loaded without them."""
        now_s = time.time()
        if bans := self.active():
            self._gate.ban({ban: until_s - now_s for ban, until_s in bans.items()})

    def contains(self, source: Source) -> bool:
        """Return whether an address, or a whole network, is banned."""
        if not self._until_s:
            return False
        if isinstance(source, Address):
            return self._until_s.get(ban_network(source), 0.0) > time.time()
        return any(covers(ban, source) for ban in self.active())

    def add(self, address: Address, for_s: float, now_s: float) -> Source:
        """Ban an address from `now_s` on, or set a new end; return what is banned. NegativeResult: the list is full."""
        ban = ban_network(address)
        if ban not in (active := self.active()) and len(active) >= MAX_BANS:
            raise NegativeResult(
                "bans-full", f"{MAX_BANS:,} addresses are banned already; ban others with another firewall"
            )
        self._gate.ban({ban: for_s})
        self._until_s[ban] = now_s + for_s
        self._save()
        return ban

    def remove(self, address: Address) -> Source:
        """End a ban; return what was banned. NegativeResult: the address is not banned."""
        ban = ban_network(address)
        if ban not in self.active():
            raise NegativeResult("not-banned", f"{ban} is not banned; `doorward ban` lists who is")
        self._gate.unban(ban)
        del self._until_s[ban]
        self._save()
        return ban

    def _save(self) -> None:
        try:
            text = json.dumps({str(ban): until_s for ban, until_s in self.active().items()})
            atomic_file.replace(self._path, text.encode())
        except OSError as error:
            self._say(f"{self._path}: {error.strerror}; bans hold, and a restart forgets this change", "error")


def read_bans(path: Path) -> dict[Source, float]:
    """Return the saved bans and their ends, expired ones included; invalid entries are ignored."""
    found: dict[Source, float] = {}
    with suppress(OSError, ValueError, RecursionError):
        with owner_rights(path.parent):  # root reads it too, in a directory of the daemon's user
            text = atomic_file.read(path)
        kept = json.loads(text)
        for text, until_s in kept.items() if isinstance(kept, dict) else ():
            with suppress(ValueError):
                if type(until_s) is float and until_s < time.time() + 366 * 86_400:
                    source = parse_source(text)
                    found[ban_network(source if isinstance(source, Address) else source.network_address)] = until_s
    return dict(list(found.items())[:MAX_BANS])
