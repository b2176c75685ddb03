"""Compile doors to state machines."""

from __future__ import annotations

import pytest

from doorward.core.automaton import Machine, compile_doors, edge, pack_symbol, split_edge, state_depths
from doorward.model import DEFAULT_FLAGS, Door, FlagFilter, Packet, Port, Protocol
from tests.support.reference import is_knock_packet

SSH = Port(Protocol.TCP, 22)


def knock(text: str) -> tuple[Port, ...]:
    """Return one TCP port per letter."""
    return tuple(Port(Protocol.TCP, 1000 + ord(letter)) for letter in text)


def machine(*sequences: str) -> Machine:
    [only] = compile_doors([Door(text, knock(text), (SSH,)) for text in sequences]).machines
    return only


def walk(run: Machine, text: str) -> list[int | None]:
    """Return the state after each letter, relative to the root; None if nothing changed."""
    state, states = run.root, []
    for port in knock(text):
        following = run.step(state, pack_symbol(port))
        state = state if following is None else following
        states.append(None if following is None else following - run.root)
    return states


def test_edge_packs_and_unpacks() -> None:
    port = Port(Protocol.UDP, 65535)
    assert split_edge(edge(400_000, pack_symbol(port))) == (400_000, port)


@pytest.mark.parametrize(
    ("doors", "sent", "states"),
    [
        (["abc"], "abc", [1, 2, 3]),
        (["abc"], "abxabc", [1, 2, 0, 1, 2, 3]),  # a wrong port resets progress
        (["abc"], "abac", [1, 2, 1, 0]),  # a wrong port may start a new attempt
        (["abc"], "aabbcc", [1, None, 2, None, 3, None]),  # retransmissions
        (["aab"], "aaab", [1, 2, 2, 3]),  # a repeat in the sequence: the third one is one of the last two
        (["abab", "abc"], "ababc", [1, 2, 3, 5, 4]),  # falls to the longer prefix `ab`, then on
        (["abc", "bcd"], "abcd", [1, 3, 5, 6]),  # the end of one is the beginning of the other
        (["ab", "abcd"], "abcd", [1, 2, 3, 4]),  # one sequence is a prefix of another
        (["abb", "bbc"], "abbc", [1, 3, 5, 6]),  # another door's sequence repeats it there
    ],
)
def test_steps(doors: list[str], sent: str, states: list[int | None]) -> None:
    assert walk(machine(*doors), sent) == states


@pytest.mark.parametrize(
    ("doors", "expected"),
    [
        (["abc"], [(1, 0), (2, 1), (3, 2), (4, 3)]),
        (["ab", "cd", "abe"], [(1, 0), (2, 1), (4, 2), (6, 3)]),
        (["a"], [(1, 0), (2, 1)]),
        ([], []),
    ],
)
def test_state_depths(doors: list[str], expected: list[tuple[int, int]]) -> None:
    assert state_depths(compile_doors([Door(text, knock(text), (SSH,)) for text in doors])) == tuple(expected)


def test_machines_have_separate_states() -> None:
    doors = [Door("a", knock("ab"), (SSH,)), Door("b", knock("cde"), (SSH,), within_ms=1000)]
    assert state_depths(compile_doors(doors)) == ((1, 0), (2, 1), (3, 2), (4, 0), (5, 1), (6, 2), (7, 3))


def test_packet_completes_every_door_that_ends_there() -> None:
    run = machine("abc", "bc", "c")
    assert {tuple(sorted(done)) for done in run.completes.values()} == {(0, 1, 2), (1, 2), (2,)}


def test_doors_share_a_machine_by_flags_and_deadline() -> None:
    fin = FlagFilter.parse(("fin",))
    doors = [
        Door("a", knock("ab"), (SSH,)),
        Door("b", knock("cd"), (SSH,)),
        Door("c", knock("ab"), (SSH,), within_ms=1000),
        Door("d", knock("ab"), (SSH,), flags=fin),
        Door("by hand", (), (SSH,)),
    ]
    machines = compile_doors(doors).machines
    assert [(m.flags, m.within_ms) for m in machines] == [(DEFAULT_FLAGS, 15_000), (DEFAULT_FLAGS, 1000), (fin, 15_000)]
    states = [set(m.edges.values()) | {m.root} for m in machines]
    assert sum(map(len, states)) == len(set().union(*states))  # no state is in two machines


def test_first_states_are_next_to_the_root() -> None:
    run = machine("abc", "axx", "bcd")
    assert [state - run.root for state in run.first_states] == [1, 2]


def test_failure_links_skip_useless_states() -> None:
    assert machine("ab", "cd").fail == {}
    # After `xa`, the prefix `a` adds only `b`, which `xa` has too: the link would be useless.
    assert machine("xab", "ab").longest_failure_chain() == 0
    assert machine("xac", "ab").longest_failure_chain() == 1


def test_failure_chain_is_bounded_by_the_sequence() -> None:
    text = "a" * 31 + "b"
    assert machine(text, "a" * 16 + "c").longest_failure_chain() <= 31


@pytest.mark.parametrize(
    ("packet", "expected"),
    [
        (Packet(b"\1\2\3\4", Port(Protocol.TCP, 9), 2), True),
        (Packet(b"\1\2\3\4", Port(Protocol.TCP, 9), 18), False),  # ACK: not the flags
        (Packet(b"\1\2\3\4", Port(Protocol.UDP, 9)), True),
        (Packet(b"\1\2\3\4", SSH, 2), False),  # a door opens it
        (Packet(b"\1\2\3\4", Port(Protocol.UDP, 22)), True),  # the other protocol is another port
        (Packet(b"\1\2\3\4", Port(Protocol.TCP, 443), 2), False),  # public
    ],
)
def test_knock_packets_are_those_that_match_and_that_nothing_opens(packet: Packet, *, expected: bool) -> None:
    automaton = compile_doors([Door("a", knock("ab"), (SSH,))], public=[Port(Protocol.TCP, 443)])
    assert is_knock_packet(automaton, packet) is expected


def test_known_only_counts_ports_of_sequences() -> None:
    automaton = compile_doors([Door("a", knock("ab"), (SSH,))], known_only=True)
    assert is_knock_packet(automaton, Packet(b"\1\2\3\4", knock("b")[0], 2))
    assert not is_knock_packet(automaton, Packet(b"\1\2\3\4", knock("c")[0], 2))
