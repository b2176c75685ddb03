"""The grid in the terminal: one port per cell, or the most unusual of several, within 80 columns."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorward.model import Port, Protocol
from doorward.verify.findings import Observations, ObservedOpening
from doorward.verify.nmap_xml import PortAnswer, PortResult
from doorward.verify.port_map import CellKind, build_grid, cell_kinds, grid_legend, grid_text
from doorward.verify.port_set import parse_ports

ESCAPES = re.compile(r"\033\[[0-9;]*m")
KINDS = st.dictionaries(
    st.builds(Port, st.sampled_from(Protocol), st.integers(1, 65535)),
    st.sampled_from(CellKind),
    min_size=1,
    max_size=200,
)


def seen(answer: PortAnswer) -> PortResult:
    return PortResult(answer, "x")


def all_silent_but(**loud: int) -> dict[Port, CellKind]:
    kinds = dict.fromkeys(parse_ports("1-65535"), CellKind.SILENT)
    return kinds | {Port(Protocol.TCP, number): CellKind[name] for name, number in loud.items()}


def test_cell_kinds() -> None:
    before = {
        Port.parse("22/tcp"): seen(PortAnswer.SILENT),
        Port.parse("23/tcp"): seen(PortAnswer.SILENT),
        Port.parse("79/tcp"): seen(PortAnswer.CLOSED),
        Port.parse("80/tcp"): seen(PortAnswer.OPEN),
        Port.parse("81/tcp"): seen(PortAnswer.OPEN),
        Port.parse("82/tcp"): seen(PortAnswer.REJECTED),
        Port.parse("9/udp"): seen(PortAnswer.SILENT),
    }
    course = Observations(before, ObservedOpening({Port.parse("22/tcp"): seen(PortAnswer.OPEN)}, frozenset(), 1))
    kinds = cell_kinds(course, parse_ports("79-80"))
    assert grid_text(kinds, colors=False) == ["TCP    22 K.c+Or", "UDP     9 ."]
    assert grid_legend(kinds, colors=False) == [
        ". silent 2  c refuses 1  r rejected 1  + open, as expected 1",
        "K opened by knock 1  O open 1",
    ]


@pytest.mark.parametrize(("colors", "share"), [(True, 32), (False, 64)])
def test_all_ports_fit_a_terminal(colors: bool, share: int) -> None:
    kinds = all_silent_but(DOOR=22, PUBLIC=65535)
    lines = [*grid_text(kinds, colors=colors), *grid_legend(kinds, colors=colors)]
    plain = [ESCAPES.sub("", line) for line in lines]
    assert len(plain) <= 17
    assert max(map(len, plain)) <= 80
    assert plain[-1].endswith(f"({share} per cell)")


def test_unusual_port_is_visible_among_silent_ones() -> None:
    first, *_, last = grid_text(all_silent_but(OPEN=64, DOOR=63, CLOSED=65), colors=False)
    assert first == "TCP     1 Oc" + "." * 62
    assert last == "    61441 " + "." * 64


def test_two_cells_share_a_character_in_color() -> None:
    kinds = dict.fromkeys(parse_ports("1-65"), CellKind.SILENT)
    (line,) = grid_text(kinds, colors=True)
    assert ESCAPES.sub("", line) == "TCP     1 " + "▀" * 64
    assert line.count("48;5;") == 1  # only the first cell has another one below
    assert line.endswith("\033[0m")


@given(KINDS, st.sampled_from([1, 7, 64]), st.none() | st.integers(1, 50))
def test_every_port_has_one_cell_in_its_row(kinds: dict[Port, CellKind], columns: int, most: int | None) -> None:
    for protocol in Protocol:
        grid = build_grid(kinds, protocol, columns, most)
        numbers = [port.number for port in sorted(kinds) if port.protocol is protocol]
        assert list(grid.numbers) == numbers
        assert most is None or len(grid.cells) <= most
        for place, kind in enumerate(grid.cells):
            covered = numbers[place * grid.share : (place + 1) * grid.share]
            assert kind is max(kinds[Port(protocol, number)] for number in covered)
        for row in range(grid.rows):
            assert grid.label(row) == numbers[row * columns * grid.share]
        assert sum(len(grid.row(row)) for row in range(grid.rows)) == len(grid.cells)


@given(KINDS, st.booleans())
def test_the_terminal_is_never_too_narrow(kinds: dict[Port, CellKind], colors: bool) -> None:
    lines = [*grid_text(kinds, colors=colors), *grid_legend(kinds, colors=colors)]
    assert all(len(ESCAPES.sub("", line)) <= 80 for line in lines)
    assert colors or all(line.isascii() for line in lines)
