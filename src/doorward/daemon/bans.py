"""Who is banned, until when: kept in a file beside the ledger, so that neither a restart nor a reboot ends a ban."""

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
from doorward.model import Address, Place, parse_place
from doorward.nftables.ban_sets import Bans as Remaining
from doorward.nftables.ban_sets import ban_network, covers

NAME = "bans.json"  # in the state folder
MAX_BANS = 10_000  # a file of half a megabyte; more is a firewall's work


class BanFirewall(Protocol):
    """What the packet filter does for bans."""

    def ban(self, bans: Remaining) -> None:
        """Put these in, with the seconds that each has left."""

    def unban(self, ban: Place) -> None:
        """Take one away."""


class BanList:
    """The bans that stand. Times inside are since the epoch: a reboot is no end."""

    def __init__(self, path: Path, gate: BanFirewall, say: Callable[[str, str], None]) -> None:
        self._path, self._gate, self._say = path, gate, say
        self._until_s: dict[Place, float] = read_bans(path)

    def active(self) -> dict[Place, float]:
        """Give who is banned, and until when."""
        now_s = time.time()
        for ban in [ban for ban, until_s in self._until_s.items() if until_s <= now_s]:
            del self._until_s[ban]
        return dict(self._until_s)

    def restore(self) -> None:
        """Put all of them into a gate that has lost them."""
        now_s = time.time()
        if standing := self.active():
            self._gate.ban({ban: until_s - now_s for ban, until_s in standing.items()})

    def contains(self, place: Place) -> bool:
        """Tell whether an address, or a whole network, is banned."""
        if not self._until_s:
            return False
        if isinstance(place, Address):
            return self._until_s.get(ban_network(place), 0.0) > time.time()
        return any(covers(ban, place) for ban in self.active())

    def add(self, address: Address, for_s: float) -> Place:
        """Ban, or set a new end; gives what is banned. AnswerNo: there are too many."""
        ban = ban_network(address)
        if ban not in (standing := self.active()) and len(standing) >= MAX_BANS:
            raise NegativeResult(f"{MAX_BANS:,} are banned already; a firewall's set is made for more")
        self._gate.ban({ban: for_s})
        self._until_s[ban] = time.time() + for_s
        self._save()
        return ban

    def remove(self, address: Address) -> Place:
        """End a ban. AnswerNo: there is none."""
        ban = ban_network(address)
        if ban not in self.active():
            raise NegativeResult(f"{ban} is not banned; `doorward ban` lists who is")
        self._gate.unban(ban)
        del self._until_s[ban]
        self._save()
        return ban

    def _save(self) -> None:
        beside = self._path.with_name(f"{self._path.name}.new")
        try:
            atomic_file.write(beside, json.dumps({str(ban): until_s for ban, until_s in self.active().items()}))
            atomic_file.rename(beside, self._path)
        except OSError as error:
            self._say(f"{self._path}: {error.strerror}; bans hold, and a restart forgets this change", "error")


def read_bans(path: Path) -> dict[Place, float]:
    """Read who was banned, and until when, also bans that are over; what makes no sense is passed over."""
    found: dict[Place, float] = {}
    with suppress(OSError, ValueError, RecursionError):
        with owner_rights(path.parent):  # root asks too, in a directory of the daemon's user
            text = atomic_file.read(path)
        kept = json.loads(text)
        for text, until_s in kept.items() if isinstance(kept, dict) else ():
            with suppress(ValueError):
                if type(until_s) is float and until_s < time.time() + 366 * 86_400:
                    place = parse_place(text)
                    found[ban_network(place if isinstance(place, Address) else place.network_address)] = until_s
    return dict(list(found.items())[:MAX_BANS])
