"""knockd's doors as the automaton and the command runner take them. Pure but for the one-time files it is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from doorward.config.knockd import KnockdDoor
from doorward.daemon.hook_commands import DoorCommands
from doorward.model import Door, Place, Port


def keys_of(doors: Sequence[KnockdDoor]) -> list[str]:
    """Give each door a name of its own: the file's, with the line behind it where two doors share one."""
    names = [door.name for door in doors]
    return [f"{door.name}:{door.line}" if names.count(door.name) > 1 else door.name for door in doors]


def as_door(key: str, door: KnockdDoor, knock: tuple[Port, ...]) -> Door:
    """Give the door of the automaton; it opens nothing itself, its commands do."""
    return Door(key, knock, (), door.within_ms, round(door.cmd_timeout_s * 1000), door.flags, door.target)


def commands_of(doors: Mapping[str, KnockdDoor]) -> dict[str, DoorCommands]:
    """Give the commands of each door; an empty one is none, an absent IPv6 one is the IPv4 one."""
    return {
        key: DoorCommands(
            door.start_command or None,
            (door.start_command if door.start_command_6 is None else door.start_command_6) or None,
            door.stop_command or None,
            (door.stop_command if door.stop_command_6 is None else door.stop_command_6) or None,
        )
        for key, door in doors.items()
    }


def is_opening(commands: DoorCommands, address: Place) -> bool:
    """Tell whether a knock opens for a time: what is run at its end stands in the file."""
    return commands.of("open", address) is not None and commands.of("close", address) is not None
