"""Between knockd and the automaton: its doors and commands for it, its states as stages, attempts. Pure and bounded.

knockd counts for each door, the automaton for each source.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from doorward.config.knockd import KnockdDoor
from doorward.core.automaton import Automaton, MachineKey, machine_key, split_edge
from doorward.core.deadlines import Deadlines
from doorward.daemon.hook_commands import DoorCommands
from doorward.model import Address, Door, Port

MAX_ATTEMPTS = 65536  # beyond it the oldest is evicted, and its timeout is not logged


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


class Stage(NamedTuple):
    """A door and how many of its knock packets have arrived; `last`: all of them."""

    door: Door
    number: int
    last: bool


class Stages:
    """The stages of every state of one compiled automaton."""

    def __init__(self, doors: Sequence[Door], automaton: Automaton) -> None:
        self._doors = doors
        self._came_from: dict[int, tuple[int, Port]] = {}
        self._machine: dict[int, MachineKey] = {}
        for machine in automaton.machines:
            for key, state in machine.edges.items():
                self._came_from[state] = split_edge(key)
                self._machine[state] = machine.key
        self._prefixes: dict[tuple[MachineKey, tuple[Port, ...]], list[int]] = {}
        for index, door in enumerate(doors):
            for length in range(1, len(door.knock) + 1):
                self._prefixes.setdefault((machine_key(door), door.knock[:length]), []).append(index)

    def automaton_key(self, state: int) -> MachineKey:
        """Return the key of the automaton that a state belongs to."""
        return self._machine[state]

    def stages_at(self, state: int) -> list[Stage]:
        """Return the furthest stage of each door in this state, in file order."""
        knock: tuple[Port, ...] = ()
        machine = self._machine.get(state)
        if machine is None:
            return []
        while state in self._came_from:
            state, port = self._came_from[state]
            knock = (port, *knock)
        stages: dict[int, int] = {}
        for start in range(len(knock)):
            for index in self._prefixes.get((machine, knock[start:]), ()):
                stages.setdefault(index, len(knock) - start)
        reached = [(self._doors[index], number) for index, number in sorted(stages.items())]
        return [Stage(door, number, number == len(door.knock)) for door, number in reached]


class StageProgress(NamedTuple):
    """The progress of a source in one automaton, and its deadline."""

    stages: tuple[Stage, ...]
    deadline_s: float


class AttemptTable:
    """The progress of each source by automaton; sources in order of their latest packet."""

    def __init__(self) -> None:
        self._progress: OrderedDict[Address, dict[MachineKey, StageProgress]] = OrderedDict()
        self._deadlines: Deadlines[tuple[Address, MachineKey]] = Deadlines()

    def advance(self, source: Address, machine: MachineKey, stages: Sequence[Stage], now_s: float) -> None:
        """Record a step; the deadline counts from the first knock packet."""
        progress = self._progress.pop(source, {})
        attempt = progress.get(machine)
        is_first = all(stage.number == 1 for stage in stages)
        until_s = now_s + machine[1] / 1000 if attempt is None or is_first else attempt.deadline_s
        progress[machine] = StageProgress(tuple(stage for stage in stages if not stage.last), until_s)
        self._progress[source] = progress
        self._deadlines.set((source, machine), until_s)
        if len(self._progress) > MAX_ATTEMPTS:
            self.fail(next(iter(self._progress)))

    def fail(self, source: Address) -> None:
        """Remove a source after a wrong packet; knockd does not log it either."""
        for machine in self._progress.pop(source, {}):
            self._deadlines.discard((source, machine))

    def expire(self, now_s: float) -> list[tuple[Address, Stage]]:
        """Remove and return the attempts whose deadline has passed at `now_s`."""
        expired: list[tuple[Address, Stage]] = []
        while (first := self._deadlines.first()) is not None and first[0] <= now_s:
            source, machine = first[1]
            self._deadlines.discard(first[1])
            expired += [(source, stage) for stage in self._progress[source].pop(machine).stages]
        return expired

    def next_deadline_s(self) -> float:
        """Return the earliest deadline; infinity if there is no attempt."""
        first = self._deadlines.first()
        return float("inf") if first is None else first[0]
