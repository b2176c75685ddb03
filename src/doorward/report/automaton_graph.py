"""Draw the automaton as SVG: one column per number of knocks, from the start on the left. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence, Set
from html import escape
from ipaddress import ip_address
from typing import NamedTuple

from doorward.config.duration import format_duration
from doorward.core.automaton import Automaton, Machine, split_edge
from doorward.model import Port
from doorward.verify.picture import FAINT, FONTS, GOOD, INK, PAPER

MOST_STATES = 300  # a larger picture is unreadable
MARGIN, COLUMN, ROW, RADIUS = 48, 180, 96, 19
HEAD, FOOT = 44, 84  # above each automaton, for its title; below all of them, for the legend
FAILURE = "#b4491e"  # color of failure links
LEGEND = (
    (INK, "", "a matching packet: one knock further; a green state opens its doors, and the source stays in it"),
    (FAILURE, "5 4", "failure link: a packet without an arrow here is tried there; without one there, at the start"),
    (FAINT, "", "a loop: repeating the packet changes nothing"),
)
_STYLE = "<style>text{paint-order:stroke;stroke-width:4px;stroke-linejoin:round}</style>"


BENDS = tuple((columns, rows) for rows in (0.75, -0.75, 0.3, -0.3, 1.2, -1.2) for columns in (0.0, -0.4, 0.4))
LETTER_WIDTH = 9  # of a label, at most
TILE = 4  # pixels; a curve should not cross tiles that a label takes
Tile = tuple[int, int]


class NodePosition(NamedTuple):
    """The center of a state, in pixels."""

    x: int
    y: int


def draw_svg(automaton: Automaton, names: Sequence[str]) -> str:
    """Return an SVG image of all automata, one below the other; `names` are those of the doors, by index."""
    parts, top, width = list[str](), MARGIN // 2, 660 + MARGIN
    for machine in automaton.machines:
        nodes = _positions(machine, top + HEAD)
        parts += [_title(machine, top), *_draw_automaton(machine, nodes, names)]
        top = max(node.y for node in nodes.values()) + ROW // 2 + 12
        width = max(width, max(node.x for node in nodes.values()) + COLUMN // 2 + MARGIN)
    parts += _legend(top)
    height = top + FOOT
    return "\n".join((
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'font-family="{FONTS}" font-size="14">',
        f"<title>The automaton of the doors {escape(', '.join(names))}</title>",
        f"<defs>{_STYLE}{_head('right', INK)}{_head('fall', FAILURE)}</defs>",
        f'<rect width="{width}" height="{height}" fill="{PAPER}"/>',
        *parts,
        "</svg>\n",
    ))  # fmt: skip


def count_states(automaton: Automaton) -> int:
    """Return the number of states."""
    return sum(len(machine.edges) + 1 for machine in automaton.machines)


def _positions(machine: Machine, top: int) -> dict[int, NodePosition]:
    """Return the positions: a row for each final state; any other state is centered on its successors."""
    successors: dict[int, list[int]] = {machine.root: []}
    column = {machine.root: 0}
    for key, state in machine.edges.items():  # in the order of depth
        before, _ = split_edge(key)
        successors[before].append(state)
        successors[state], column[state] = [], column[before] + 1
    heights: dict[int, float] = {}
    rows = 0
    for state in _postorder(machine.root, successors):
        after = successors[state]
        heights[state] = (heights[after[0]] + heights[after[-1]]) / 2 if after else rows
        rows += not after
    return {
        state: NodePosition(MARGIN + RADIUS + column[state] * COLUMN, top + ROW // 2 + round(heights[state] * ROW))
        for state in column
    }


def _postorder(root: int, successors: Mapping[int, Sequence[int]]) -> Iterator[int]:
    for state in successors[root]:
        yield from _postorder(state, successors)
    yield root


def _draw_automaton(machine: Machine, nodes: Mapping[int, NodePosition], names: Sequence[str]) -> Iterator[str]:
    taken = _taken_tiles(machine, nodes, names)
    for state, shorter in machine.fail.items():
        yield _draw_failure_link(nodes[state], nodes[shorter], taken)
    for key in machine.repeats:
        yield _draw_loop(nodes[split_edge(key)[0]])
    for key, state in machine.edges.items():
        before, symbol = split_edge(key)
        yield _draw_edge(nodes[before], nodes[state], symbol)
    for state, node in nodes.items():
        doors = [names[index] for index in machine.completes.get(state, ())]
        yield _draw_state(node, "start" if state == machine.root else str(state), doors)


def _draw_edge(begin: NodePosition, end: NodePosition, symbol: Port) -> str:
    middle = (begin.x + end.x) // 2
    path = f"M{begin.x + RADIUS} {begin.y}C{middle} {begin.y} {middle} {end.y} {end.x - RADIUS - 2} {end.y}"
    return _path(path, INK, "right") + _text(*_edge_label(begin, end), str(symbol), anchor="end")


def _edge_label(begin: NodePosition, end: NodePosition) -> tuple[int, int]:
    """Return where the label of an edge ends: on the side that the arrow does not come from."""
    return end.x - RADIUS - 14, end.y + 18 if end.y > begin.y else end.y - 7


def _taken_tiles(machine: Machine, nodes: Mapping[int, NodePosition], names: Sequence[str]) -> set[Tile]:
    """Return the tiles that labels, states with their loops, and heads of arrows cover."""
    taken = set[Tile]()
    for key, state in machine.edges.items():
        before, symbol = split_edge(key)
        node, (right, base) = nodes[state], _edge_label(nodes[before], nodes[state])
        taken |= _tiles(right - LETTER_WIDTH * len(str(symbol)), base - 12, right, base + 3)
        taken |= _tiles(node.x - RADIUS - 14, node.y - 5, node.x - RADIUS, node.y + 5)
    for state, (x, y) in nodes.items():
        taken |= _tiles(x - RADIUS + 4, y - RADIUS - 20, x + RADIUS - 4, y + RADIUS - 6)
        if letters := len(", ".join(names[index] for index in machine.completes.get(state, ()))):
            taken |= _tiles(x - 2, y + RADIUS + 6, x + LETTER_WIDTH * (letters + 6), y + RADIUS + 22)
    return taken


def _tiles(left: int, top: int, right: int, bottom: int) -> set[Tile]:
    return {(x, y) for x in range(left // TILE, right // TILE + 1) for y in range(top // TILE, bottom // TILE + 1)}


def _draw_failure_link(begin: NodePosition, end: NodePosition, taken: Set[Tile]) -> str:
    """Draw a failure link as the curve that crosses the least of labels, states and heads of arrows."""
    curves = [_curve(begin, end, columns, rows) for columns, rows in BENDS]
    start, bend, stop = min(curves, key=lambda curve: _crossed(curve, taken))
    path = f"M{start.x} {start.y}Q{bend.x} {bend.y} {stop.x} {stop.y}"
    return _path(path, FAILURE, "fall", ' stroke-dasharray="5 4"')


def _curve(begin: NodePosition, end: NodePosition, columns: float, rows: float) -> tuple[NodePosition, ...]:
    """Return a curve between two circles: its start, its bend and its end."""
    bend = NodePosition(
        round((begin.x + end.x) / 2 + columns * COLUMN), max(0, round((begin.y + end.y) / 2 + rows * ROW))
    )
    return _toward(begin, bend, RADIUS + 1), bend, _toward(end, bend, RADIUS + 3)


def _toward(node: NodePosition, other: NodePosition, distance: int) -> NodePosition:
    share = distance / max(math.dist(node, other), 1.0)
    return NodePosition(round(node.x + (other.x - node.x) * share), round(node.y + (other.y - node.y) * share))


def _crossed(curve: tuple[NodePosition, ...], taken: Set[Tile]) -> int:
    """Count the points of a curve that are on tiles which are taken."""
    start, bend, stop = curve
    weights = (((1 - t) ** 2, 2 * t * (1 - t), t**2) for t in (step / 40 for step in range(1, 40)))
    points = ((a * start.x + b * bend.x + c * stop.x, a * start.y + b * bend.y + c * stop.y) for a, b, c in weights)
    return sum((int(x) // TILE, int(y) // TILE) in taken for x, y in points)


def _draw_loop(node: NodePosition) -> str:
    top = node.y - RADIUS
    return _path(
        f"M{node.x - 7} {top + 1}C{node.x - 24} {top - 26} {node.x + 24} {top - 26} {node.x + 7} {top + 1}", FAINT
    )


def _draw_state(node: NodePosition, label: str, doors: Sequence[str]) -> str:
    fill, ink = (GOOD, PAPER) if doors else (PAPER, INK)
    circle = f'<circle cx="{node.x}" cy="{node.y}" r="{RADIUS}" fill="{fill}" stroke="{ink if doors else INK}"/>'
    inside = f'<text x="{node.x}" y="{node.y + 5}" fill="{ink}" font-size="13" text-anchor="middle">{label}</text>'
    opens = _text(node.x - 2, node.y + RADIUS + 18, f"opens {', '.join(doors)}", GOOD, bold=True)
    return circle + inside + (opens if doors else "")


def _title(machine: Machine, top: int) -> str:
    to = "" if machine.target is None else f", to {ip_address(machine.target)}"
    text = f"flags {machine.flags}, within {format_duration(machine.within_ms)}{to}"
    return _text(MARGIN, top + 20, text, FAINT)


def _legend(top: int) -> Iterator[str]:
    for number, (color, dashes, text) in enumerate(LEGEND):
        y = top + 14 + number * 24
        dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
        yield f'<path d="M{MARGIN} {y}h36" stroke="{color}" stroke-width="1.5"{dashed}/>'
        yield _text(MARGIN + 48, y + 5, text, FAINT)


def _head(name: str, color: str) -> str:
    shape = f'<path d="M0 0L8 4L0 8z" fill="{color}"/>'
    return f'<marker id="{name}" markerWidth="8" markerHeight="8" refX="7" refY="4" orient="auto">{shape}</marker>'


def _path(path: str, color: str, head: str = "", more: str = "") -> str:
    ends = f' marker-end="url(#{head})"' if head else ""
    return f'<path d="{path}" fill="none" stroke="{color}" stroke-width="1.5"{more}{ends}/>'


def _text(x: int, y: int, text: str, color: str = INK, anchor: str = "start", *, bold: bool = False) -> str:
    weight = ' font-weight="600"' if bold else ""
    return f'<text x="{x}" y="{y}" fill="{color}" stroke="{PAPER}" text-anchor="{anchor}"{weight}>{escape(text)}</text>'
