"""What an operator asks of a whole fleet: who is up, close everywhere, the record, the doors and their versions."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NamedTuple

from doorward.errors import AnswerNo, MalformedError, UsageError
from doorward.fleet import forms, records
from doorward.fleet.doors import MAX_BYTES, version_in, version_key
from doorward.fleet.etcd import AwayError, Etcd, now_ms
from doorward.fleet.records import Key, Tree, parse_key
from doorward.model import NAME

ANSWER_S = 2.0  # in which a gate that is up answers
LOAD_S = 30.0  # in which it loads other doors
KEPT_VERSIONS = 50
_VERSIONS_A_PAGE = 16  # each may have a megabyte
_LEASE_S = 10


class Gate(NamedTuple):
    """One gate: "up", "silent" (it gives no answer, though it was there a moment ago) or "away"; and what it says."""

    name: str
    state: str
    answer: dict[str, Any]
    took_ms: int = 0
    offset_ms: int = 0  # of its wall clock, to this machine's


class Version(NamedTuple):
    """One version of the fleet's doors."""

    number: int
    at_ms: int
    by: str
    is_current: bool


class Outcome(NamedTuple):
    """What a gate made of a version: how many doors are in force there, or why it is not (None: no answer)."""

    gate: str
    doors: int
    fault: str | None


class Office:
    """Asks and tells one fleet, by etcd."""

    def __init__(self, etcd: Etcd, fleet: str) -> None:
        self._etcd, self._tree = etcd, Tree(fleet)

    def roll_call(self) -> list[Gate]:
        """Ask all gates how they are."""
        present, members = self._names("gates"), self._names("members")
        ask, lease = secrets.token_hex(8), self._etcd.grant(_LEASE_S)
        prefix = self._tree.under("answers", ask, "")
        asked_ms, wall_ms = now_ms(), time.time_ns() // 1_000_000
        revision = self._etcd.put(self._tree.under("asks", ask), b"{}", lease)
        gates: dict[str, Gate] = {}
        for entry in self._follow(prefix, revision, ANSWER_S):
            name, took_ms = entry.key.removeprefix(prefix), now_ms() - asked_ms
            answer = _object(entry.value)
            with suppress(ValueError):  # a gate that answers what makes no sense is silent
                offset_ms = records.whole(answer.get("wall_ms", 0)) - wall_ms - took_ms // 2
                answer["behind"] = max(0, revision - records.whole(answer.get("revision", 0), 1 << 63))
                gates[name] = Gate(name, "up", answer, took_ms, offset_ms)
            if present <= gates.keys():
                break
        self._etcd.revoke(lease)
        missing = [Gate(n, "silent" if n in present else "away", {}) for n in (members | present) - gates.keys()]
        return sorted([*gates.values(), *missing])

    def close(self, key: Key) -> bool:
        """Close a door to a place everywhere; False where it was open nowhere."""
        return self._etcd.delete(self._tree.opening(key)) > 0

    def forget(self, gate: str) -> None:
        """Forget a gate that is no more; AnswerNo where it is up, or unknown."""
        if gate in self._names("gates"):
            raise AnswerNo(f"{gate} is up; stop its daemon first")
        if gate not in self._names("members"):
            raise AnswerNo(f"{gate or 'nobody'} is no member; `doorward status --fleet` lists them")
        for kind in (("members",), ("doors", "loaded")):
            self._etcd.delete(self._tree.under(*kind, gate))

    def openings(self) -> list[tuple[Key, records.Shared]]:
        """Give all openings that stand; what makes no sense is nobody's, as for the gates."""
        prefix = self._tree.under("openings", "")
        found: list[tuple[Key, records.Shared]] = []
        for entry in self._etcd.prefix(prefix).entries:
            with suppress(MalformedError):
                found.append(records.parse(entry.key.removeprefix(prefix), entry.value))
        return found

    def records(self, last: int) -> list[dict[str, Any]]:
        """Give the newest records of all gates (0: all), the oldest of them first."""
        prefix = self._tree.under("log", "")
        if last:
            found = self._etcd.range(prefix, forms.after(prefix), limit=last, newest_first=True)
        else:
            found = self._etcd.prefix(prefix)
        rows = [row for entry in found.entries if (row := _object(entry.value)).get("at_ms")]
        return sorted(rows, key=lambda row: int(row["at_ms"]))

    def versions(self) -> list[Version]:
        """Give all versions of the doors that are kept, the oldest first."""
        prefix = self._tree.under("doors", "versions", "")
        current = self._current()[0]
        made = []
        for entry in self._etcd.prefix(prefix, _VERSIONS_A_PAGE).entries:
            if number := _number(entry.key.removeprefix(prefix)):
                fields = _object(entry.value)
                at_ms = fields.get("at_ms", 0)
                made.append(
                    Version(
                        number,
                        at_ms if isinstance(at_ms, int) else 0,
                        str(fields.get("by", "?")),
                        number == current,
                    )
                )
        return made

    def push(self, text: str, by: str) -> tuple[int, int]:
        """Store doors as a new version that stands from now on; gives it, and etcd's revision."""
        if len(text.encode()) > MAX_BYTES:
            raise UsageError(f"the doors are larger than {MAX_BYTES >> 20} MiB, which etcd does not take; write fewer")
        while True:
            number = self._newest() + 1
            key = version_key(self._tree, number)
            value = json.dumps({"text": text, "at_ms": time.time_ns() // 1_000_000, "by": by}).encode()
            puts = [forms.to_put(key, value), self._pointer(number)]
            done = self._etcd.txn([(key, 0)], puts)
            if done.succeeded:
                self._prune(number)
                return number, done.revision

    def roll_back(self, number: int | None) -> tuple[int, int]:
        """Let an older version stand again (None: the one before); gives it, and etcd's revision."""
        current, at = self._current()
        wanted = self._newest(version_key(self._tree, current)) if number is None else number
        if not wanted or not self._etcd.range(version_key(self._tree, wanted)).entries:
            which = "before the one that stands" if number is None else str(number)
            raise AnswerNo(f"there is no version {which}; `doorward fleet versions` lists them")
        done = self._etcd.txn([(self._tree.under("doors", "current"), at)], [self._pointer(wanted)])
        if not done.succeeded:
            raise AnswerNo("somebody else changed the fleet's doors just now; look at `doorward fleet versions`")
        return wanted, done.revision

    def outcomes(self, version: int, revision: int) -> Iterator[Outcome]:
        """Wait for what each gate that is up makes of a version."""
        waiting, prefix = self._names("gates"), self._tree.under("doors", "loaded", "")
        for entry in self._follow(prefix, revision, LOAD_S) if waiting else ():
            gate, found = entry.key.removeprefix(prefix), _object(entry.value)
            if gate in waiting and found.get("version") == version:
                waiting.discard(gate)
                yield Outcome(gate, int(found.get("doors", 0)), str(found.get("fault", "")))
            if not waiting:
                return
        for gate in sorted(waiting):
            yield Outcome(gate, 0, None)

    def _newest(self, below: str = "") -> int:
        """Give the newest version, or the newest whose key is below that one; 0: none. They are never rewritten."""
        prefix = self._tree.under("doors", "versions", "")
        found = self._etcd.range(prefix, below or forms.after(prefix), limit=1, newest_first=True).entries
        return _number(found[0].key.removeprefix(prefix)) if found else 0

    def _pointer(self, number: int) -> forms.Message:
        return forms.to_put(self._tree.under("doors", "current"), json.dumps({"version": number}).encode())

    def _current(self) -> tuple[int, int]:
        found = self._etcd.range(self._tree.under("doors", "current")).entries
        return (version_in(found[0].value), found[0].revision) if found else (0, 0)

    def _prune(self, newest: int) -> None:
        if newest > KEPT_VERSIONS:
            self._etcd.delete(version_key(self._tree, 0), version_key(self._tree, newest - KEPT_VERSIONS + 1))

    def _names(self, kind: str) -> set[str]:
        prefix = self._tree.under(kind, "")
        found = {entry.key.removeprefix(prefix) for entry in self._etcd.prefix(prefix).entries}
        return set(filter(NAME.fullmatch, found))

    def _follow(self, prefix: str, revision: int, for_s: float) -> Iterator[forms.Entry]:
        """Give what is written below a prefix since a revision, for so long."""
        until_s = time.monotonic() + for_s
        with self._etcd.watch([(prefix, forms.after(prefix), revision)]) as watch:
            while (left_s := until_s - time.monotonic()) > 0:
                try:
                    told = watch.read(left_s)
                except AwayError:
                    return
                yield from (change.entry for change in told.changes if change.is_put)


def key_of(door: str, address: str) -> Key:
    """Read what a command names."""
    try:
        return parse_key(f"{door}/{address}")
    except ValueError:
        raise UsageError(f"{door!r} and {address!r} are no door with an address") from None


def _number(text: str) -> int:
    """Read the number of a version; 0 where it is none."""
    return int(text) if text.isdecimal() and len(text) < 16 else 0


def _object(raw: bytes) -> dict[str, Any]:
    try:
        return records.fields(raw)
    except ValueError:
        return {}
