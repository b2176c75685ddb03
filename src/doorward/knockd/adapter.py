"""Convert knockd's doors to the automaton's doors and the hook runner's commands. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from doorward.config.knockd import KnockdDoor
from doorward.daemon.hook_commands import DoorCommands
from doorward.model import Door, Port


def by_key(doors: Sequence[KnockdDoor]) -> dict[str, KnockdDoor]:
    """Return the doors by a unique key: the name, with the line number appended if doors share it."""
    names = [door.name for door in doors]
    return {f"{door.name}:{door.line}" if names.count(door.name) > 1 else door.name: door for door in doors}


def to_door(key: str, door: KnockdDoor, knock: tuple[Port, ...]) -> Door:
    """Return the automaton's door; it opens no ports itself, its commands do."""
    return Door(key, knock, (), door.within_ms, round(door.cmd_timeout_s * 1000), door.flags, door.target)


def build_commands(doors: Mapping[str, KnockdDoor]) -> dict[str, DoorCommands]:
    """Return each door's commands; an empty command means no command, a missing IPv6 command means the IPv4 one."""
    return {
        key: DoorCommands(
            door.start_command or None,
            (door.start_command if door.start_command_6 is None else door.start_command_6) or None,
            door.stop_command or None,
            (door.stop_command if door.stop_command_6 is None else door.stop_command_6) or None,
        )
        for key, door in doors.items()
    }
