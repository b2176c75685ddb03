"""The doors that a fleet keeps in etcd, as a gate brings them into its state folder; and answers to roll calls."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from doorward import durable
from doorward.errors import HostError
from doorward.fleet import records
from doorward.fleet.etcd import Etcd
from doorward.fleet.records import Tree

NAME, NEW_NAME = "fleet-doors.toml", "fleet-doors.new"  # in the state folder: in force; brought and not loaded yet
MAX_BYTES = 1 << 20  # etcd takes a request of 1.5 MiB
_HEADING = "# version "


class Answering(NamedTuple):
    """Answer a roll call, with its lease."""

    ask: str
    lease: int
    answer: dict[str, object]


class Telling(NamedTuple):
    """Tell the fleet which version of its doors is in force here, or why one is not."""

    doors: int
    version: int
    fault: str


class Bringing(NamedTuple):
    """Bring the doors that stand, as the pointer to them says, into this folder."""

    current: bytes
    folder: Path


class Brought(NamedTuple):
    """They are in the file that the daemon reads."""

    version: int


def do(etcd: Etcd, tree: Tree, gate: str, task: object) -> Brought | None:
    """Do one of these tasks."""
    if isinstance(task, Answering):
        etcd.put(tree.under("answers", task.ask, gate), json.dumps(task.answer).encode(), task.lease)
    elif isinstance(task, Telling):
        etcd.put(tree.under("doors", "loaded", gate), json.dumps(task._asdict()).encode())
    elif isinstance(task, Bringing):
        return _bring(etcd, tree, task)
    return None


def _bring(etcd: Etcd, tree: Tree, task: Bringing) -> Brought:
    version = version_in(task.current)
    if version != held(task.folder / NAME):  # else it stood all the time, while a later one was refused
        found = etcd.range(version_key(tree, version)).entries
        if not found:
            raise HostError(f"version {version} of the fleet's doors stands, and is not in etcd; push them again")
        write(task.folder / NEW_NAME, version, text_in(found[0].value))
    return Brought(version)


def version_key(tree: Tree, version: int) -> str:
    """Give the key of a version."""
    return tree.under("doors", "versions", f"{version:08}")


def version_in(current: bytes) -> int:
    """Read the pointer to the version that stands; 0 where it makes no sense."""
    try:
        return records.whole(records.fields(current)["version"])
    except (ValueError, KeyError):
        return 0


def text_in(value: bytes) -> str:
    """Read the text of a version; HostError where it makes no sense."""
    try:
        found = records.fields(value)["text"]
        found.encode()  # JSON may hold half a character, which no file can
    except (ValueError, KeyError, AttributeError):
        raise HostError("the fleet's doors in etcd are not what doorward writes; push them again") from None
    return str(found)


def write(path: Path, version: int, text: str) -> None:
    """Write a version into a file, whole or not at all. HostError."""
    beside = path.with_name(f"{path.name}.part")
    try:
        durable.write(beside, f"{_HEADING}{version}\n{text}")
        durable.rename(beside, path)
    except OSError as error:
        raise HostError(f"{path}: {error.strerror}; the fleet's doors were not brought") from None


def held(path: Path) -> int:
    """Give the version that a file has; 0 where there is none."""
    try:
        with path.open() as file:
            line = file.readline(64)
    except (OSError, UnicodeDecodeError):
        return 0
    number = line.removeprefix(_HEADING).strip()
    return int(number) if line.startswith(_HEADING) and number.isdecimal() else 0
