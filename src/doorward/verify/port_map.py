"""Ports as a grid, one or more ports per cell, and its text for a terminal. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from enum import IntEnum
from itertools import islice
from typing import NamedTuple

from doorward.model import Port, Protocol
from doorward.verify.findings import Observations
from doorward.verify.nmap_xml import PortAnswer
from doorward.verify.port_set import Ports


class CellKind(IntEnum):
    """The kind of a cell; of several ports the greatest, so that an unusual port is never hidden."""

    SILENT = 0
    CLOSED = 1
    REJECTED = 2
    PUBLIC = 3
    DOOR = 4  # opened to the knock
    OPEN = 5


NAMES = {
    CellKind.SILENT: "silent",
    CellKind.DOOR: "opened by knock",
    CellKind.PUBLIC: "open, as expected",
    CellKind.CLOSED: "refuses",
    CellKind.REJECTED: "rejected",
    CellKind.OPEN: "open",
}
LETTERS = {
    CellKind.SILENT: ".",
    CellKind.DOOR: "K",
    CellKind.PUBLIC: "+",
    CellKind.CLOSED: "c",
    CellKind.REJECTED: "r",
    CellKind.OPEN: "O",
}
# Of the 256 colors that nearly every terminal has; two alternating shades, to distinguish the cells.
_SHADES = {
    CellKind.SILENT: (71, 65),
    CellKind.DOOR: (220, 220),
    CellKind.PUBLIC: (44, 44),
    CellKind.CLOSED: (33, 27),
    CellKind.REJECTED: (133, 127),
    CellKind.OPEN: (196, 196),
}
_KINDS = {
    PortAnswer.SILENT: CellKind.SILENT,
    PortAnswer.CLOSED: CellKind.CLOSED,
    PortAnswer.REJECTED: CellKind.REJECTED,
    PortAnswer.OPEN: CellKind.OPEN,
}
TEXT_WIDTH = 80
TEXT_COLUMNS = 64  # with the port before each row this fits 80
TEXT_ROWS = 16  # with the lines around it this fits 24


class PortGrid(NamedTuple):
    """Cells row by row; each covers `share` ports, and `numbers` are all ports in order."""

    columns: int
    share: int
    cells: tuple[CellKind, ...]
    numbers: tuple[int, ...]

    @property
    def rows(self) -> int:
        """Return the number of rows; the last may be short."""
        return -(-len(self.cells) // self.columns)

    def row(self, number: int) -> tuple[CellKind, ...]:
        """Return one row's cells."""
        return self.cells[number * self.columns : (number + 1) * self.columns]

    def label(self, row: int) -> int:
        """Return the first port of a row."""
        return self.numbers[row * self.columns * self.share]


def cell_kinds(observed: Observations, public: Ports) -> dict[Port, CellKind]:
    """Return how to show each port."""
    opened = observed.opening.found if observed.opening is not None else {}
    kinds = {}
    for port, seen in observed.before.items():
        kind = _KINDS[seen.answer]
        if port in public and kind is CellKind.OPEN:
            kind = CellKind.PUBLIC
        elif port in opened:
            kind = CellKind.DOOR
        kinds[port] = kind
    return kinds


def build_grid(
    kinds: Mapping[Port, CellKind], protocol: Protocol, columns: int, most_cells: int | None = None
) -> PortGrid:
    """Return one protocol's ports in order; beyond `most_cells` several ports share a cell."""
    numbers = sorted(port.number for port in kinds if port.protocol is protocol)
    share = 1 if most_cells is None else max(1, -(-len(numbers) // most_cells))
    each = iter(kinds[Port(protocol, number)] for number in numbers)
    cells = []
    while chunk := tuple(islice(each, share)):
        cells.append(max(chunk))
    return PortGrid(columns, share, tuple(cells), tuple(numbers))


def grid_text(kinds: Mapping[Port, CellKind], *, colors: bool) -> list[str]:
    """Return lines for a terminal of 80x24: half blocks, two cells per character; or one letter per cell."""
    lines = []
    for protocol in Protocol:
        grid = build_grid(kinds, protocol, TEXT_COLUMNS, max_text_cells(colors=colors))
        rows = _colored(grid) if colors else _lettered(grid)
        lines += [f"{protocol.name if not index else '':<3} {row}" for index, row in enumerate(rows)]
    return lines


def max_text_cells(*, colors: bool) -> int:
    """Return how many cells a terminal shows."""
    return TEXT_COLUMNS * TEXT_ROWS * (2 if colors else 1)


def grid_legend(kinds: Mapping[Port, CellKind], *, colors: bool) -> list[str]:
    """Return the legend with the number of ports of each kind, in lines for a terminal."""
    number = Counter(kinds.values())
    signs = {kind: f"\033[38;5;{_SHADES[kind][0]}m■\033[0m" if colors else LETTERS[kind] for kind in CellKind}
    most = max_text_cells(colors=colors)
    share = max(build_grid(kinds, protocol, TEXT_COLUMNS, most).share for protocol in Protocol)
    items = [(signs[kind], f"{NAMES[kind]} {number[kind]:,}") for kind in CellKind if number[kind]]
    lines, width = [""], 0
    for sign, text in [*items, *([("", f"({share} per cell)")] if share > 1 else [])]:
        if width + len(text) + 4 > TEXT_WIDTH:
            lines, width = [*lines, ""], 0
        lines[-1] += f"{'  ' if width else ''}{sign}{' ' if sign else ''}{text}"
        width += len(text) + 4
    return lines


def _lettered(grid: PortGrid) -> list[str]:
    return [f"{grid.label(row):>5} {''.join(LETTERS[kind] for kind in grid.row(row))}" for row in range(grid.rows)]


def _colored(grid: PortGrid) -> list[str]:
    """Return two rows per line: the upper half block has the upper cell's color, its background the lower's."""
    lines = []
    for row in range(0, grid.rows, 2):
        upper, lower = grid.row(row), grid.row(row + 1)
        pairs = ((_SHADES[kind][index % 2], _lower(lower, index)) for index, kind in enumerate(upper))
        blocks = "".join(f"\033[38;5;{above};{below}m▀" for above, below in pairs)
        lines.append(f"{grid.label(row):>5} {blocks}\033[0m")
    return lines


def _lower(row: Sequence[CellKind], index: int) -> str:
    """Return the background; the last row may be short or missing."""
    return f"48;5;{_SHADES[row[index]][(index + 1) % 2]}" if index < len(row) else "49"
