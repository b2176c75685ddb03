"""The automaton's tables as nftables maps and sets, in the order of the doors, with comments that name the doors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from doorward.config.duration import format_duration, nft_duration
from doorward.core.automaton import Automaton, edge, machine_key, pack_symbol, split_edge
from doorward.model import Door, HostPort, Port, SetPort, set_port

# Ports to open, each with its milliseconds, and whether for one connection.
Action = tuple[tuple[SetPort, int, bool], ...]
T = TypeVar("T")
T_Port = TypeVar("T_Port", Port, HostPort)
_NAMED_DOORS = 8  # the most that a comment names; the rest are counted


def classid(state: int) -> str:
    """Return a state in the notation of packet priorities: two hexadecimal halves (tc(8))."""
    return f"{state >> 16:x}:{state & 0xFFFF:x}"


def proto_port(port: SetPort) -> str:
    """Return a port as parts of a concatenated key: the host if it is behind this one, the protocol, the number."""
    host = f"{port.host} . " if isinstance(port, HostPort) else ""
    return f"{host}{port.protocol.name.lower()} . {port.number}"


def open_set(port: SetPort, family: object, *, once: bool = False, is_network: bool = False) -> str:
    """Return the name of the set that holds openings of a port, to sources of an address family."""
    return f"{'once' if once else 'open'}{'_behind' * isinstance(port, HostPort)}{'_nets' * is_network}{family}"


def timeout_commands(where: str, key: str, left_s: float) -> Iterator[str]:
    """Yield commands that set an element with a new remaining time, whether it exists or not.

    Kernels before 6.12 silently ignore a longer timeout in an `add` of an existing element, and `delete` needs it to
    exist: add, delete, add works on all.
    """
    timeout = f"timeout {nft_duration(max(1, round(left_s * 1000)))}"
    yield f"add element {where} {{ {key} {timeout} }}"
    yield f"delete element {where} {{ {key} }}"
    yield f"add element {where} {{ {key} {timeout} }}"


def describe(door: Door) -> str:
    """Return a one-line summary of a door, for a comment."""
    knock = ", ".join(map(str, door.knock)) or "by hand"
    ports = ", ".join(map(str, door.all_opens))
    once = ", or one connection" if door.once else ""
    opens = f"; opens {ports} for {format_duration(door.for_ms)}{once}" if ports else ""
    return f"{door.name}: {knock}{f' at {door.target}' if door.target else ''}{opens}"


def actions(doors: Sequence[Door], automaton: Automaton) -> dict[Action, list[int]]:
    """Group the states by the ports they open: doors with the same ports and durations share one chain."""
    shared: dict[Action, list[int]] = {}
    for machine in automaton.machines:
        for state, completed in machine.completes.items():
            longest: dict[tuple[SetPort, bool], int] = {}
            for door in (doors[index] for index in completed):
                for port in map(set_port, door.all_opens):
                    longest[port, door.once] = max(longest.get((port, door.once), 0), door.for_ms)
            action = tuple(sorted(((port, ms, once) for (port, once), ms in longest.items()), key=_in_order))
            shared.setdefault(action, []).append(state)
    return shared


def _in_order(item: tuple[SetPort, int, bool]) -> tuple[object, ...]:
    port, ms, once = item
    return (*port[:2], str(port[2:]), ms, once)  # addresses of different families cannot be compared


def delta(doors: Sequence[Door], automaton: Automaton) -> str:
    """Return the map of all edges, state . protocol . port : next state, one line per door."""
    written: set[int] = set()
    lines: list[str] = []
    machines = {machine.key: machine for machine in automaton.machines}
    for door in doors:
        machine = machines.get(machine_key(door))
        if not door.knock or machine is None:
            continue
        new: list[str] = []
        state = machine.root
        for port in door.knock:
            key = edge(state, pack_symbol(port))
            following = machine.edges[key]
            if key not in written:
                written.add(key)
                new.append(f"{classid(state)} . {proto_port(port)} : {classid(following)},")
            state = following
        lines += [f"# {describe(door)}", *([" ".join(new)] if new else [])]
    return _collection("map delta", "classid . inet_proto . inet_service : classid", len(written), lines)


def same(automaton: Automaton) -> str:
    """Return the set of edges on which a packet only repeats the previous one."""
    keys = [key for machine in automaton.machines for key in sorted(machine.repeats)]
    return _collection("set same", "classid . inet_proto . inet_service", len(keys), _rows(keys, _same_element))


def fail(automaton: Automaton) -> str:
    """Return the map of failure links, state : the shorter prefix to try."""
    links = {state: to for machine in automaton.machines for state, to in machine.fail.items()}
    rows = _rows(links.items(), lambda link: f"{classid(link[0])} : {classid(link[1])}")
    return _collection("map fail", "classid : classid", len(links), rows)


def opens(chains: Mapping[str, list[int]]) -> str:
    """Return the map from each final state to its chain."""
    pairs = [(state, chain) for chain, states in chains.items() for state in states]
    rows = _rows(pairs, lambda pair: f"{classid(pair[0])} : goto {pair[1]}")
    return _collection("map opens", "classid : verdict", len(pairs), rows)


def number(automaton: Automaton, *, every: bool) -> str:
    """Return the map from final states, or every state, to marks for the netfilter log.

    nftables cannot copy a priority into a mark.
    """
    states = [
        state for m in automaton.machines for state in (sorted(m.edges.values()) if every else sorted(m.completes))
    ]
    return _collection("map number", "classid : mark", len(states), _rows(states, lambda s: f"{classid(s)} : {s}"))


def addresses(head: str, element_type: str, members: Mapping[str, str]) -> str:
    """Return a set of addresses, or a map if they have values."""
    rows = _rows(members.items(), lambda item: f"{item[0]} : {item[1]}" if item[1] else item[0])
    return _collection(head, element_type, len(members), rows)


def ports(name: str, element_type: str, members: Mapping[T_Port, str] | Iterable[Port], *, sized: bool = True) -> str:
    """Return a set of ports, or a map from ports to verdicts; without a size its content can be replaced."""
    if isinstance(members, Mapping):
        rows = _rows(members.items(), lambda item: f"{proto_port(item[0])} : {item[1]}")
        return _collection(f"map {name}", element_type, len(members), rows, sized=sized)
    listed = sorted(members)
    return _collection(f"set {name}", element_type, len(listed), _rows(listed, proto_port))


def door_names(doors: Sequence[Door], indices: Iterable[int]) -> str:
    """Return the names of a few doors for a comment, and the count of the rest."""
    names = [doors[index].name for index in dict.fromkeys(indices)]
    rest = len(names) - _NAMED_DOORS
    return ", ".join(names[:_NAMED_DOORS]) + (f" and {rest} more" if rest > 0 else "")


def _same_element(key: int) -> str:
    state, port = split_edge(key)
    return f"{classid(state)} . {proto_port(port)}"


def _rows(items: Iterable[T], write: Callable[[T], str]) -> list[str]:
    """Return the elements, eight per line."""
    texts = [write(item) for item in items]
    return [", ".join(texts[start : start + 8]) + "," for start in range(0, len(texts), 8)]


def _collection(head: str, element_type: str, size: int, rows: list[str], *, sized: bool = True) -> str:
    """Return one map or set; its size is fixed, so that the kernel allocates its buckets once.

    A map has room for its content twice: during a reload it contains the old and the new.
    """
    room = max(size, 1) * (2 if head.startswith("map ") else 1)
    body = ["elements = {", *(f"    {row}" for row in rows), "}"] if size else []
    lines = [f"type {element_type}", *([f"size {room}"] if sized else []), *body]
    return f"{head} {{\n" + "".join(f"    {line}\n" for line in lines) + "}\n"
