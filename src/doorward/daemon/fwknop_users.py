"""Who still uses a shared key of fwknop, and who has moved to signed knocks: the last opening by each way. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from doorward.model import BY_FWKNOP, BY_KEY


class LastUse(NamedTuple):
    """When a stanza, and a key with its name, last opened a door, in seconds since the epoch; None: never."""

    stanza: str
    fwknop: float | None
    signed: float | None


class FwknopUsers:
    """The last use of each stanza's name. `last`: the last opening by each `Opening.by`, from the ledger."""

    def __init__(self, stanzas: Iterable[str], last: Mapping[str, float]) -> None:
        self._last = {stanza: LastUse(stanza, None, None) for stanza in stanzas}
        for by, at_s in last.items():
            self.note(by, at_s)

    def note(self, by: str, at_s: float) -> None:
        """Note an opening. A key is its stanza's if it has the same name, as in `alice` or `alice@laptop`."""
        if by.startswith(BY_FWKNOP):
            if use := self._last.get(by.removeprefix(BY_FWKNOP)):
                self._last[use.stanza] = use._replace(fwknop=max(at_s, use.fwknop or 0))
        elif by.startswith(BY_KEY):
            name = by.removeprefix(BY_KEY).partition(" ")[0]
            if use := self._last.get(name.partition("@")[0]):
                self._last[use.stanza] = use._replace(signed=max(at_s, use.signed or 0))

    def as_list(self, accepted: Collection[str]) -> list[dict[str, object]]:
        """Return them as JSON values, in the order of the file; `accepted`: the stanzas with usable keys."""
        return [{**use._asdict(), "takes": use.stanza in accepted} for use in self._last.values()]
