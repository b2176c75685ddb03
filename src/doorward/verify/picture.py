"""The picture of a verification as shapes: the layout of each rectangle, line and text. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from itertools import groupby
from textwrap import wrap
from typing import NamedTuple

from doorward.escape import printable
from doorward.model import Port, Protocol
from doorward.verify.port_map import NAMES, CellKind, PortGrid, build_grid

COLORS = {
    CellKind.SILENT: "#a5d3b4",
    CellKind.DOOR: "#f5b700",
    CellKind.PUBLIC: "#17a2a2",
    CellKind.CLOSED: "#2f6fd0",
    CellKind.REJECTED: "#8e44ad",
    CellKind.OPEN: "#d1242f",
}
INK, FAINT, PAPER = "#1c2321", "#66716c", "#ffffff"
GOOD, BAD = "#1a7f4b", "#d1242f"
MARGIN, LABELS = 36, 52  # around everything; left of a grid, for the labels of its rows
GRID_WIDTH = 1024
SMALLEST_CELL, LARGEST_CELL = 4, 22
# From this many ports on, a grid has this many columns; at 32 all ports up to 1,056 make 33 rows.
COLUMNS = ((16385, 256), (4097, 128), (1089, 64), (0, 32))
LABEL_EVERY = 28  # pixels between two row labels, at least
MAX_FRAMES = 40  # a lone cell is framed and labeled, since it is small; many are visible without
FRAME = 6  # pixels around the cell
NAME_WIDTH, NAME_HEIGHT = 44, 16  # room for five digits; where two labels would overlap, the second is left out
LEGEND_COLUMN = 215
SMALLEST_WIDTH = 640  # for the text
LINE = 24
DETAIL_SIZE, VERDICT_SIZE = 15, 17
LETTER = 0.56  # width of a letter per font size, rounded up


class Rect(NamedTuple):
    """A filled rectangle."""

    x: int
    y: int
    width: int
    height: int
    fill: str


class Outline(NamedTuple):
    """The outline of a rectangle."""

    x: int
    y: int
    width: int
    height: int
    color: str


class GridLines(NamedTuple):
    """Thin lines between the cells of a grid."""

    x: int
    y: int
    columns: int
    rows: int
    cell: int
    color: str = PAPER


class Label(NamedTuple):
    """One line of text; `y` is its baseline. `end`: it ends at `x` instead of starting there."""

    x: int
    y: int
    text: str
    size: int
    color: str = INK
    bold: bool = False
    end: bool = False


Shape = Rect | Outline | GridLines | Label


class Sheet(NamedTuple):
    """The content for one address: heading, details, verdict, and each port's kind."""

    heading: str
    details: Sequence[str]
    good: bool
    verdict: Sequence[str]
    kinds: Mapping[Port, CellKind]


class Drawing(NamedTuple):
    """Shapes on white, in painting order."""

    width: int
    height: int
    shapes: tuple[Shape, ...]


def draw(sheets: Sequence[Sheet]) -> Drawing:
    """Return the sheets, one below the other."""
    width = max([SMALLEST_WIDTH, *(_width(grid) for sheet in sheets for grid in _grids(sheet).values())])
    shapes: list[Shape] = []
    y = MARGIN
    for sheet in sheets:
        drawn, y = _sheet(sheet, width, y)
        shapes += drawn
        y += MARGIN
    return Drawing(2 * MARGIN + width, y, tuple(shapes))


def _grids(sheet: Sheet) -> dict[Protocol, PortGrid]:
    numbers = Counter(port.protocol for port in sheet.kinds)
    return {each: build_grid(sheet.kinds, each, columns_for(numbers[each])) for each in Protocol if numbers[each]}


def _width(grid: PortGrid) -> int:
    return LABELS + grid.columns * _cell(grid)


def _cell(grid: PortGrid) -> int:
    return max(SMALLEST_CELL, min(LARGEST_CELL, GRID_WIDTH // grid.columns))


def _sheet(sheet: Sheet, width: int, y: int) -> tuple[list[Shape], int]:
    shapes, y = _words(sheet, width, y)
    for protocol, grid in _grids(sheet).items():
        drawn, y = _grid(protocol.name, grid, y)
        shapes += drawn
    legend, y = _legend(sheet.kinds, width, y)
    return [*shapes, *legend], y


def _words(sheet: Sheet, width: int, y: int) -> tuple[list[Shape], int]:
    shapes: list[Shape] = [Label(MARGIN, y + 20, sheet.heading, 24, bold=True)]
    y += 20
    verdict_color = GOOD if sheet.good else BAD
    for texts, size, color, bold in (
        (sheet.details, DETAIL_SIZE, FAINT, False),
        (sheet.verdict, VERDICT_SIZE, verdict_color, True),
    ):
        lines = [line for text in texts for line in wrap(text, int(width / size / LETTER))]
        shapes += (Label(MARGIN, y + LINE * index, line, size, color, bold) for index, line in enumerate(lines, 1))
        y += LINE * len(lines) + 6
    return shapes, y + 14


def columns_for(ports: int) -> int:
    """Return a grid's width in cells."""
    return next(columns for least, columns in COLUMNS if ports >= least)


def _grid(name: str, grid: PortGrid, y: int) -> tuple[list[Shape], int]:
    cell = _cell(grid)
    left = MARGIN + LABELS
    shapes: list[Shape] = [Label(MARGIN, y + 14, name, 15, bold=True)]
    y += 24
    shapes += _cells(grid, left, y, cell)
    shapes.append(GridLines(left, y, grid.columns, grid.rows, cell))
    middle = min(cell, LABEL_EVERY) // 2 + 5  # of the row, for the label's baseline
    shapes += (
        Label(left - 8, y + row * cell + middle, f"{grid.label(row)}", 12, FAINT, end=True)
        for row in range(0, grid.rows, max(1, -(-LABEL_EVERY // cell)))
    )
    shapes += _frames(grid, left, y, cell) if cell < LARGEST_CELL else _numbers(grid, left, y)
    return shapes, y + grid.rows * cell + 20


def _cells(grid: PortGrid, left: int, y: int, cell: int) -> Iterator[Shape]:
    """Draw adjacent cells of one kind as one rectangle: a silent host's 65,535 ports are a few hundred shapes."""
    for row in range(grid.rows):
        column = 0
        for kind, run in groupby(grid.row(row)):
            length = len(list(run))
            yield Rect(left + column * cell, y + row * cell, length * cell, cell, COLORS[kind])
            column += length


def _unusual(grid: PortGrid) -> list[int]:
    """Return the indexes of the cells that differ from most, or [] if there are many."""
    usual = Counter(grid.cells).most_common(1)[0][0]
    loud = [index for index, kind in enumerate(grid.cells) if kind is not usual]
    return loud if len(loud) <= MAX_FRAMES else []


def _numbers(grid: PortGrid, left: int, y: int) -> Iterator[Shape]:
    for index in _unusual(grid):
        row, column = divmod(index, grid.columns)
        digits = f"{grid.numbers[index]}"
        color = INK if grid.cells[index] is CellKind.DOOR else PAPER
        x = left + column * LARGEST_CELL + (LARGEST_CELL + 6 * len(digits)) // 2
        if len(digits) <= 3:  # more do not fit into the cell
            yield Label(x, y + row * LARGEST_CELL + 15, digits, 10, color, end=True)


def _frames(grid: PortGrid, left: int, y: int, cell: int) -> Iterator[Shape]:
    named: list[tuple[int, int]] = []
    for index in _unusual(grid):
        row, column = divmod(index, grid.columns)
        x, top, side = left + column * cell - FRAME, y + row * cell - FRAME, cell + 2 * FRAME
        yield Outline(x, top, side, side, COLORS[grid.cells[index]])
        at = (x + side + 2, top)
        if not any(abs(at[0] - x2) < NAME_WIDTH + side and abs(at[1] - y2) < NAME_HEIGHT for x2, y2 in named):
            named.append(at)
            yield from _name(grid.numbers[index], *at)


def _name(number: int, x: int, y: int) -> tuple[Shape, Shape]:
    digits = f"{number}"
    return Rect(x, y, 8 * len(digits) + 4, NAME_HEIGHT, PAPER), Label(x + 2, y + 12, digits, 13, bold=True)


def _legend(kinds: Mapping[Port, CellKind], width: int, y: int) -> tuple[list[Shape], int]:
    number = Counter(kinds.values())
    shapes: list[Shape] = []
    shown = [kind for kind in CellKind if number[kind]]
    across = width // LEGEND_COLUMN
    for index, kind in enumerate(shown):
        row, column = divmod(index, across)
        x, top = MARGIN + column * LEGEND_COLUMN, y + row * LINE
        shapes.append(Rect(x, top, 14, 14, COLORS[kind]))
        shapes.append(Label(x + 22, top + 12, f"{NAMES[kind]}: {number[kind]:,}", 15))
    return shapes, y + -(-len(shown) // across) * LINE


FONTS = "system-ui, 'DejaVu Sans', 'Segoe UI', Helvetica, Arial, sans-serif"


def to_svg(drawing: Drawing, title: str) -> str:
    """Return the whole SVG file."""
    width, height = drawing.width, drawing.height
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="{FONTS}">',
        f"<title>{_escaped(title)}</title>",
        f'<rect width="{width}" height="{height}" fill="{PAPER}"/>',
        *map(_element, drawing.shapes),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _element(shape: Shape) -> str:
    if isinstance(shape, Rect):
        return _box(shape) + f' fill="{shape.fill}"/>'
    if isinstance(shape, Outline):
        return _box(shape) + f' fill="none" stroke="{shape.color}" stroke-width="2"/>'
    if isinstance(shape, GridLines):
        return f'<path d="{_lines(shape)}" stroke="{shape.color}" stroke-width="1" shape-rendering="crispEdges"/>'
    bold = ' font-weight="600"' if shape.bold else ""
    end = ' text-anchor="end"' if shape.end else ""
    return (
        f'<text x="{shape.x}" y="{shape.y}" font-size="{shape.size}" fill="{shape.color}"{bold}{end}>'
        f"{_escaped(shape.text)}</text>"
    )


def _box(shape: Rect | Outline) -> str:
    return f'<rect x="{shape.x}" y="{shape.y}" width="{shape.width}" height="{shape.height}"'


def _lines(grid: GridLines) -> str:
    right, bottom = grid.columns * grid.cell, grid.rows * grid.cell
    across = (f"M{grid.x} {grid.y + row * grid.cell}h{right}" for row in range(1, grid.rows))
    down = (f"M{grid.x + column * grid.cell} {grid.y}v{bottom}" for column in range(1, grid.columns))
    return "".join((*across, *down))


def _escaped(text: str) -> str:
    """Escape for XML; unprintable characters, which XML may not contain, become question marks."""
    return escape(printable(text))
