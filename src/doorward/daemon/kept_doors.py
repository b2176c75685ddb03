"""The fleet's doors in the state folder: what was brought is tried, and what was in force stands where it fails."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from doorward import durable
from doorward.config import fleet_doors
from doorward.config.files import read_text, trusted_owners
from doorward.config.fleet_doors import Text
from doorward.config.schema import Configuration
from doorward.daemon.loading import Loaded
from doorward.errors import DoorwardError, HostError
from doorward.fleet.doors import NAME, NEW_NAME, held

Load = Callable[[Configuration], Loaded]


def load_with_doors(path: Path, configuration: Configuration, folder: Path, load: Load) -> Loaded:
    """Load a configuration, read from `path`, with the fleet's doors in `folder`: the new ones, or those in force."""
    new, old = folder / NEW_NAME, folder / NAME
    if new.exists():
        version = held(new)
        try:
            loaded = load(_merged(path, new, version))
            durable.rename(new, old)
        except (DoorwardError, OSError) as error:
            with suppress(OSError):
                new.unlink()
            return replace(_as_before(path, configuration, old, load), doors_version=version, doors_fault=str(error))
        return replace(loaded, doors_version=version)
    return _as_before(path, configuration, old, load)


def _as_before(path: Path, configuration: Configuration, old: Path, load: Load) -> Loaded:
    if not old.exists():
        return load(configuration)
    version = held(old)
    return replace(load(_merged(path, old, version)), doors_version=version)


def _merged(path: Path, doors: Path, version: int) -> Configuration:
    try:
        text = doors.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise HostError(f"{doors}: the fleet's doors cannot be read back: {error}") from None
    own = Text(read_text(path, trusted_owners()), str(path))
    # The first line names the version; without it, lines are those of the file that was pushed.
    return fleet_doors.merged(own, Text(text.partition("\n")[2], f"version {version} of the fleet's doors"))
