"""A configuration compiled for `explain`: the automaton, and the doors that each state belongs to."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from doorward.config.schema import Configuration, Gate, WrongPort
from doorward.core.automaton import Automaton, compile_doors, edge, machine_key, pack_symbol
from doorward.model import Address, Door, HostPort, OpenPort, Port, PortRange, Protocol

_AFTER_ALL = 1 << 16  # above every port
NAMED_DOORS = 3  # doors named per shared prefix; the others are counted
MOST_DOORS_PER_NUMBER = 64  # doors per port number; later ones are not considered as candidates


class Progress(NamedTuple):
    """What a state means: the number of knocks done, for these doors (by index) and `more` others."""

    knocks: int
    doors: tuple[int, ...]
    more: int


@dataclass(frozen=True)
class CompiledConfig:
    """The compiled doors. `ports`: all ports of all sequences; `services`: what doors open, by port."""

    doors: tuple[Door, ...]
    gate: Gate
    automaton: Automaton
    machine_by_door: tuple[int | None, ...]  # of each door
    progress_by_state: dict[int, Progress]
    ports: frozenset[Port]
    services: dict[OpenPort, tuple[int, ...]]
    doors_by_number: dict[int, list[int]]  # port number, of either protocol -> doors with it in their sequence
    signed_ports: tuple[Port, ...] = ()
    has_fwknop: bool = False
    ranges: tuple[PortRange, ...] = ()  # sorted; they do not overlap

    def opened_as(self, protocol: Protocol, number: int, host: Address | None) -> OpenPort | None:
        """Return how doors open a port, of this host or one behind it, if not as the port of this host itself."""
        if host is not None:
            behind = HostPort(protocol, number, host)
            return behind if behind in self.services else None
        index = bisect_right(self.ranges, (protocol, number, _AFTER_ALL)) - 1
        span = self.ranges[index] if index >= 0 else None
        return span if span and span.includes(Port(protocol, number)) else None

    @cached_property
    def numbers(self) -> frozenset[int]:
        """All port numbers that matter, whatever the protocol."""
        ranged = (port for span in self.ranges for port in span.ports())
        return frozenset(port.number for port in (*self.ports, *self.services, *self.signed_ports, *ranged))

    @cached_property
    def targets(self) -> frozenset[bytes]:
        """The packed addresses of hosts behind this one: targets of knocks, and those whose ports doors open."""
        hosts = (port.host.packed for port in self.services if isinstance(port, HostPort))
        return frozenset((*hosts, *(machine.target for machine in self.automaton.machines if machine.target)))

    def door_index(self, name: str) -> int | None:
        """Return the index of the door with that name, or None."""
        return next((index for index, door in enumerate(self.doors) if door.name == name), None)


def build_config(configuration: Configuration) -> CompiledConfig:
    """Return the configuration, compiled as the daemon does it."""
    gate, doors = configuration.gate, configuration.doors
    uncounted = (*gate.public, *configuration.signed_ports)
    automaton = compile_doors(doors, public=uncounted, known_only=gate.wrong_port is WrongPort.KNOWN)
    keys = {machine.key: n for n, machine in enumerate(automaton.machines)}
    machine_by_door = tuple(keys[machine_key(door)] if door.knock else None for door in doors)
    services: dict[OpenPort, tuple[int, ...]] = {}
    for index, door in enumerate(doors):
        for port in door.all_opens:
            services[port] = (*services.get(port, ()), index)
    ports = frozenset(port for door in doors for port in door.knock)
    progress_by_state = _state_progress(doors, automaton, machine_by_door)
    return CompiledConfig(
        doors,
        gate,
        automaton,
        machine_by_door,
        progress_by_state,
        ports,
        services,
        _doors_by_number(doors),
        configuration.signed_ports,
        configuration.fwknop is not None,
        tuple(sorted({span for door in doors for span in door.ranges})),
    )


def _doors_by_number(doors: Sequence[Door]) -> dict[int, list[int]]:
    doors_by_number: dict[int, list[int]] = {}
    for index, door in enumerate(doors):
        for number in {port.number for port in door.knock}:
            known = doors_by_number.setdefault(number, [])
            if len(known) < MOST_DOORS_PER_NUMBER:
                known.append(index)
    return doors_by_number


def _state_progress(
    doors: Sequence[Door], automaton: Automaton, machine_by_door: Sequence[int | None]
) -> dict[int, Progress]:
    progress_by_state: dict[int, Progress] = {}
    for index, machine_index in enumerate(machine_by_door):
        if machine_index is None:
            continue
        machine = automaton.machines[machine_index]
        state = machine.root
        for knocks, port in enumerate(doors[index].knock, 1):
            state = machine.edges[edge(state, pack_symbol(port))]
            progress = progress_by_state.get(state, Progress(knocks, (), 0))
            if len(progress.doors) < NAMED_DOORS:
                progress_by_state[state] = progress._replace(doors=(*progress.doors, index))
            else:
                progress_by_state[state] = progress._replace(more=progress.more + 1)
    return progress_by_state
