"""Map automaton states to stages of doors: knockd counts per door, the automaton per source. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from doorward.core.automaton import Automaton, MachineKey, machine_key, split_edge
from doorward.model import Door, Port


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
