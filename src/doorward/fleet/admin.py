"""Operator commands for a whole fleet: status, close everywhere, access log, remove a gate."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NamedTuple

from doorward.errors import MalformedError, NegativeResult, UsageError
from doorward.fleet import etcd_codec, etcd_records
from doorward.fleet.etcd import Etcd, EtcdUnavailableError, now_ms, wall_ms
from doorward.fleet.etcd_codec import prefix_end
from doorward.fleet.etcd_records import KeySpace, OpeningKey, parse_key
from doorward.model import NAME

ANSWER_TIMEOUT_S = 2.0  # a gate that is up answers within this time
_LEASE_S = 10
_LAST_MOMENT_MS = 253_000_000_000_000  # in the year 9987: later ones cannot be shown


class GateStatus(NamedTuple):
    """The state of one gate ("up"; "silent": present a moment ago, but no answer; or "away") and its answer."""

    name: str
    state: str
    answer: dict[str, Any]
    took_ms: int = 0
    offset_ms: int = 0  # of its wall clock from this host's


class FleetAdmin:
    """Query and change one fleet through etcd."""

    def __init__(self, etcd: Etcd, fleet: str) -> None:
        self.fleet = fleet
        self._etcd, self._tree = etcd, KeySpace(fleet)

    def status(self) -> list[GateStatus]:
        """Return the status of every gate, present or known, sorted by name."""
        present, members = self._names("gates"), self._names("members")
        ask, lease = secrets.token_hex(8), self._etcd.grant(_LEASE_S)
        prefix = self._tree.under("answers", ask, "")
        asked_ms, asked_wall_ms = now_ms(), wall_ms()
        revision = self._etcd.put(self._tree.under("asks", ask), b"{}", lease)
        gates: dict[str, GateStatus] = {}
        for entry in self._answers(prefix, revision):
            name, took_ms = entry.key.removeprefix(prefix), now_ms() - asked_ms
            answer = _parse_object(entry.value)
            with suppress(ValueError):  # a gate with a malformed answer counts as silent
                offset_ms = etcd_records.read_int(answer.get("wall_ms", 0)) - asked_wall_ms - took_ms // 2
                answer["behind"] = max(0, revision - etcd_records.read_int(answer.get("revision", 0), 1 << 63))
                gates[name] = GateStatus(name, "up", answer, took_ms, offset_ms)
            if present <= gates.keys():
                break
        self._etcd.revoke(lease)
        missing = [GateStatus(n, "silent" if n in present else "away", {}) for n in (members | present) - gates.keys()]
        return sorted([*gates.values(), *missing])

    def close(self, key: OpeningKey) -> bool:
        """Close a door for an address or network on every gate; return False if it was open nowhere."""
        signers = self._tree.signers(key)
        return self._etcd.delete(self._tree.opening(key)) + self._etcd.delete(signers, prefix_end(signers)) > 0

    def remove(self, gate: str) -> None:
        """Remove a gate from the members; raise NegativeResult if it is up or unknown."""
        if gate in self._names("gates"):
            raise NegativeResult("gate-up", f"{gate} is up; stop its daemon first")
        if gate not in self._names("members"):
            raise NegativeResult("unknown-gate", f"unknown gate {gate!r}; `doorward status --fleet` lists the gates")
        self._etcd.delete(self._tree.under("members", gate))

    def openings(self) -> list[tuple[OpeningKey, etcd_records.StoredOpening]]:
        """Return all current openings; malformed entries are skipped, as the gates do."""
        prefix = self._tree.under("openings", "")
        openings: list[tuple[OpeningKey, etcd_records.StoredOpening]] = []
        for entry in self._etcd.prefix(prefix).entries:
            with suppress(MalformedError):
                openings.append(etcd_records.parse(entry.key.removeprefix(prefix), entry.value))
        return openings

    def records(self, last: int) -> list[dict[str, Any]]:
        """Return the newest `last` records of all gates (0: all), oldest first; malformed ones are skipped."""
        prefix = self._tree.under("log", "")
        if last:
            result = self._etcd.range(prefix, etcd_codec.prefix_end(prefix), limit=last, newest_first=True)
        else:
            result = self._etcd.prefix(prefix)
        rows = [row for entry in result.entries if (row := _parse_record(entry.value)) is not None]
        return sorted(rows, key=lambda row: int(row["at_ms"]))

    def _names(self, directory: str) -> set[str]:
        prefix = self._tree.under(directory, "")
        names = {entry.key.removeprefix(prefix) for entry in self._etcd.prefix(prefix).entries}
        return set(filter(NAME.fullmatch, names))

    def _answers(self, prefix: str, revision: int) -> Iterator[etcd_codec.KeyValue]:
        """Yield the keys written under a prefix since a revision, until the time for answers is over."""
        until_s = time.monotonic() + ANSWER_TIMEOUT_S
        with self._etcd.watch([(prefix, etcd_codec.prefix_end(prefix), revision)]) as watch:
            while (left_s := until_s - time.monotonic()) > 0:
                try:
                    message = watch.read(left_s)
                except EtcdUnavailableError:
                    return
                yield from (change.entry for change in message.changes if change.is_put)


def opening_key(door: str, address: str) -> OpeningKey:
    """Return the key of the opening that a command names; raise UsageError if it is malformed."""
    try:
        return parse_key(f"{door}/{address}")
    except ValueError:
        raise UsageError(
            "invalid-opening",
            f"invalid opening: expected the name of a door and an IP address or network, got {door!r} and {address!r}",
        ) from None


def _parse_record(raw: bytes) -> dict[str, Any] | None:
    """Return a record; None if it is malformed, since one that anyone may write to etcd must not hide the others."""
    row = _parse_object(raw)
    texts = [row.get(field) for field in ("gate", "event", "door", "address", "words")]
    try:
        etcd_records.read_int(row.get("at_ms"), _LAST_MOMENT_MS)
    except ValueError:
        return None
    return row if all(isinstance(text, str) for text in texts) else None


def _parse_object(raw: bytes) -> dict[str, Any]:
    try:
        return etcd_records.read_object(raw)
    except ValueError:
        return {}
