"""Which stage of which door a state is: knockd counts per door, the automaton per source. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from doorward.core.automaton import Automaton, MachineKey, machine_key, split_edge
from doorward.model import Door, Port


class Stage(NamedTuple):
    """A door and how many of its knocks have come; `last` tells that they are all."""

    door: Door
    number: int
    last: bool


class Stages:
    """Answers for any state of one automaton."""

    def __init__(self, doors: Sequence[Door], automaton: Automaton) -> None:
        self._doors = doors
        self._came_from: dict[int, tuple[int, Port]] = {}
        self._machine: dict[int, MachineKey] = {}
        for machine in automaton.machines:
            for key, state in machine.edges.items():
                self._came_from[state] = split_edge(key)
                self._machine[state] = (machine.flags, machine.within_ms, machine.target)
        self._begins: dict[tuple[MachineKey, tuple[Port, ...]], list[int]] = {}
        for index, door in enumerate(doors):
            for length in range(1, len(door.knock) + 1):
                self._begins.setdefault((machine_key(door), door.knock[:length]), []).append(index)

    def machine_of(self, state: int) -> MachineKey:
        """Tell which machine a state belongs to."""
        return self._machine[state]

    def of(self, state: int) -> list[Stage]:
        """Give every door that this state is a stage of, the furthest for each, in the order of the file."""
        word: tuple[Port, ...] = ()
        machine = self._machine.get(state)
        if machine is None:
            return []
        while state in self._came_from:
            state, port = self._came_from[state]
            word = (port, *word)
        stages: dict[int, int] = {}
        for start in range(len(word)):
            for index in self._begins.get((machine, word[start:]), ()):
                stages.setdefault(index, len(word) - start)
        found = [(self._doors[index], number) for index, number in sorted(stages.items())]
        return [Stage(door, number, number == len(door.knock)) for door, number in found]
