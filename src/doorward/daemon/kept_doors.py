"""The fleet's doors in the state folder: what was brought is tried, and what was in force stands where it fails."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from doorward import durable
from doorward.config import fleet_doors
from doorward.config.fleet_doors import Text
from doorward.config.schema import Configuration
from doorward.daemon.loading import Loaded
from doorward.daemon.switch import SwitchedOff
from doorward.errors import ConfigError, DoorwardError, Fault, HostError
from doorward.fleet.doors import NAME, NEW_NAME, held
from doorward.owner_rights import owner_rights

Load = Callable[[Configuration], Loaded]


def load_with_doors(own: Text, configuration: Configuration, folder: Path, load: Load) -> Loaded:
    """Load a configuration, whose text is `own`, with the fleet's doors in `folder`: the new ones, or those in force.

    SwitchedOff: neither, for now.
    """
    new, old = folder / NEW_NAME, folder / NAME
    if new.exists():
        version = held(new)
        try:
            loaded = load(merged(own, new, version))
            durable.rename(new, old)
        except SwitchedOff:
            raise
        except (DoorwardError, OSError) as error:
            with suppress(OSError):
                new.unlink()
            return replace(_as_before(own, configuration, old, load), doors_version=version, doors_fault=str(error))
        return replace(loaded, doors_version=version)
    return _as_before(own, configuration, old, load)


def _as_before(own: Text, configuration: Configuration, old: Path, load: Load) -> Loaded:
    if not old.exists():
        return load(configuration)
    version = held(old)
    return replace(load(merged(own, old, version)), doors_version=version)


def faults_with(own: Text, folder: Path) -> list[Fault]:
    """Return what makes a gate's own text and the fleet's doors in `folder` one wrong configuration.

    Nothing where there are none, or where this user cannot read them.
    """
    old = folder / NAME
    try:
        merged(own, old, held(old))
    except ConfigError as error:
        return error.faults
    except HostError:
        pass
    return []


def merged(own: Text, doors: Path, version: int) -> Configuration:
    """Return a gate's own configuration with the fleet's doors of a file. HostError, ConfigError: they do not fit."""
    try:
        with owner_rights(doors.parent):  # root's `check` asks too, in a directory of the daemon's user
            text = durable.read(doors)
    except (OSError, UnicodeDecodeError) as error:
        raise HostError(f"{doors}: the fleet's doors cannot be read back: {error}") from None
    # The first line names the version; without it, lines are those of the file that was pushed.
    return fleet_doors.merged(own, Text(text.partition("\n")[2], f"version {version} of the fleet's doors"))
