"""Whether a daemon is in a fleet. What a gate that is alone needs of this is here; the rest comes with the fleet."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from doorward.daemon.daemon import Daemon


def follow(daemon: Daemon) -> None:
    """Share openings where the configuration that is in force says so."""
    if daemon.loaded.fleet is None:
        end(daemon)
        return
    if daemon.fleet is None:
        from doorward.daemon.fleet_sync import FleetSync

        daemon.fleet = FleetSync(daemon)
    daemon.fleet.configure(daemon.loaded, daemon.config.parent)


def end(daemon: Daemon) -> None:
    """Leave the fleet."""
    if daemon.fleet is not None:
        daemon.fleet.close()
        daemon.fleet = None
