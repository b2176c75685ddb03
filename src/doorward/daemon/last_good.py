"""The last good configuration: root's copy of the file last in force, for a start with an invalid file.

It is FILE.last, in the same directory, so that relative paths in it stay valid. Root writes it once the file is in
force: the hook runner if root started the daemon, `doorward check --keep` in the unit, and `doorward apply` and
`confirm`. It is not read if anyone but root could have written it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from doorward.config import toml
from doorward.config.files import MAX_BYTES, decode_text, group_id, read_text
from doorward.config.schema import Fleet
from doorward.config.toml import parse
from doorward.core.diff import Remaining
from doorward.daemon.ruleset_loader import LoadResult, digest_of, load_gate
from doorward.errors import DoorwardError, HostError, NegativeResult
from doorward.kernel import atomic_file

_MODE = 0o644  # at most: readers of the file can read the copy, and only root can write it
_MOST_NAMED = 10  # doors in one line of the log


def path_of(config: Path) -> Path:
    """Return the path of the copy."""
    return config.with_name(f"{config.name}.last")


def keep(config: Path, digest: str) -> None:
    """Copy the file, if its text has the digest of the one in force; called by root.

    NegativeResult: it has another text. ConfigError, UsageError, HostError: it is unreadable, or not root's.
    """
    text = read_text(config, (0,))
    if digest_of(text) != digest:
        raise NegativeResult(
            "not-in-force", f"{config}: not kept as the last good configuration, since it is not the one in force"
        )
    was, copy = config.stat(), path_of(config)
    try:
        atomic_file.replace(copy, text.encode(), atomic_file.FileOwnership(was.st_mode & _MODE, 0, was.st_gid))
    except OSError as error:
        raise HostError("unwritable-file", f"{copy}: {error.strerror}; let root write there") from None


def load_last(config: Path, restore: Remaining, ruleset: Path) -> LoadResult:
    """Load the copy, and save the ruleset in `ruleset`; a child of the daemon does this if `config` is invalid.

    The files that it names are used as they are now; other requirements that the host does not meet are left out.
    A door that `config` no longer has is closed: its ports stay hidden, and no knock opens it.
    """
    copy = path_of(config)
    text = read_text(copy, (0,))
    removed = _removed_doors(text, config)
    found = parse(text, str(copy))
    left_out = list[str]()
    gate = replace(found.gate, control_group=_group(found.gate.control_group, left_out))
    fleet = _fleet(found.fleet, config.parent, left_out)
    doors = tuple(door for door in found.doors if door.name not in removed)
    closed = tuple(door for door in found.doors if door.name in removed)
    loaded = load_gate(replace(found, gate=gate, doors=doors, fleet=fleet), restore, ruleset, closed)
    if closed:
        names = ", ".join(door.name for door in closed[:_MOST_NAMED]) + (", …" if closed[_MOST_NAMED:] else "")
        left_out.append(f"closed, since {config} no longer has them: {names}")
    return replace(loaded, warning="\n".join(left_out))


def _removed_doors(text: str, config: Path) -> frozenset[str]:
    """Return the doors of the copy that the file no longer has; empty if it is not TOML with a table [doors]."""
    try:
        with config.open("rb") as file:  # its owner is not checked: it can only close doors
            raw = file.read(MAX_BYTES + 1)
        new = _doors_in(decode_text(raw, str(config)), config)
    except (DoorwardError, OSError):
        return frozenset()
    return frozenset() if new is None else frozenset((_doors_in(text, path_of(config)) or {}).keys() - new.keys())


def _doors_in(text: str, file: Path) -> dict[str, Any] | None:
    found = toml.load(text, str(file)).get("doors")
    return found if isinstance(found, dict) else None


def _group(name: str | None, left_out: list[str]) -> str | None:
    try:
        group_id(name)
    except HostError as error:
        left_out.append(f"{error}; only root can use the control socket")
        return None
    return name


def _fleet(fleet: Fleet | None, directory: Path, left_out: list[str]) -> Fleet | None:
    if fleet is None:
        return None
    from doorward.fleet.etcd import read_access  # with `ssl`, which other gates go without

    try:
        read_access(fleet, directory)
    except DoorwardError as error:
        left_out.append(f"{error}; this gate works without its fleet")
        return None
    return fleet
