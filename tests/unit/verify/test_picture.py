"""The layout of the picture."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from doorward.model import Port, Protocol
from doorward.verify.picture import COLORS, Drawing, Label, Outline, Rect, Sheet, columns_for, draw, to_svg
from doorward.verify.port_map import CellKind
from doorward.verify.port_set import parse_ports

NAMESPACE = "{http://www.w3.org/2000/svg}"


def sheet(
    kinds: dict[Port, CellKind], heading: str = "home (192.0.2.7)", details: Sequence[str] = ("details",)
) -> Sheet:
    return Sheet(heading, details, True, ["OK"], kinds)


def silent_but(ports: str, **loud: str) -> dict[Port, CellKind]:
    kinds = dict.fromkeys(parse_ports(ports), CellKind.SILENT)
    for name, text in loud.items():
        kinds |= dict.fromkeys(parse_ports(text), CellKind[name])
    return kinds


def texts(drawing: Drawing) -> list[str]:
    return [shape.text for shape in drawing.shapes if isinstance(shape, Label)]


def area(drawing: Drawing, kind: CellKind) -> int:
    rects = [shape for shape in drawing.shapes if isinstance(shape, Rect) and shape.fill == COLORS[kind]]
    return sum(rect.width * rect.height for rect in rects[:-1])  # the last is the legend's


@pytest.mark.parametrize(
    ("ports", "columns", "rows"), [(1, 32, 1), (1056, 32, 33), (1088, 32, 34), (4096, 64, 64), (65535, 256, 256)]
)
def test_the_shape_of_the_grid(ports: int, columns: int, rows: int) -> None:
    assert columns_for(ports) == columns
    assert -(-ports // columns) == rows


def test_every_cell_is_as_large_as_its_share() -> None:
    drawing = draw([sheet(silent_but("1-1056", OPEN="80", CLOSED="100-131", DOOR="22"))])
    cell = 22 * 22
    assert area(drawing, CellKind.OPEN) == cell
    assert area(drawing, CellKind.DOOR) == cell
    assert area(drawing, CellKind.CLOSED) == 32 * cell
    assert area(drawing, CellKind.SILENT) == (1056 - 34) * cell


def test_text_legend_and_counts() -> None:
    said = texts(draw([sheet(silent_but("1-65535,8000/udp", OPEN="80", DOOR="22"))]))
    assert {"home (192.0.2.7)", "details", "OK", "TCP", "UDP", "1", "8000"} <= set(said)
    assert said[-3:] == ["silent: 65,534", "opened by knock: 1", "open: 1"]


def test_few_unusual_ports_are_framed_and_labeled() -> None:
    few = draw([sheet(silent_but("1-65535", OPEN="80,40000", DOOR="22"))])
    assert len([shape for shape in few.shapes if isinstance(shape, Outline)]) == 3
    assert {"22", "80", "40000"} <= set(texts(few))
    crowd = draw([sheet(silent_but("1-65535", OPEN="1-100"))])
    assert not [shape for shape in crowd.shapes if isinstance(shape, Outline)]


def test_silent_door_among_closed_ports_is_framed() -> None:
    kinds = dict.fromkeys(parse_ports("1-65535"), CellKind.CLOSED) | {Port(Protocol.TCP, 22): CellKind.DOOR}
    (frame,) = [shape for shape in draw([sheet(kinds)]).shapes if isinstance(shape, Outline)]
    assert frame.color == COLORS[CellKind.DOOR]


def test_labels_do_not_overlap() -> None:
    said = texts(draw([sheet(silent_but("1-65535", OPEN="3000-3005"))]))
    assert [text for text in said if text.startswith("300")] == ["3000"]


def test_a_silent_host_is_a_small_file() -> None:
    svg = to_svg(draw([sheet(silent_but("1-65535"))]), "x")
    assert len(svg) < 40_000


HEADINGS = st.text(max_size=30)
KINDS = st.dictionaries(
    st.builds(Port, st.sampled_from(Protocol), st.integers(1, 65535)),
    st.sampled_from(CellKind),
    min_size=1,
    max_size=80,
)


@settings(max_examples=50)
@given(KINDS, HEADINGS, st.lists(st.text(max_size=200), max_size=3))
def test_any_text_and_ports_give_valid_xml_within_the_page(
    kinds: dict[Port, CellKind], heading: str, details: list[str]
) -> None:
    drawing = draw([sheet(kinds, heading, details), sheet(kinds)])
    root = ElementTree.fromstring(to_svg(drawing, heading))  # noqa: S314 (our own)
    assert (int(root.attrib["width"]), int(root.attrib["height"])) == (drawing.width, drawing.height)
    for box in root.iter(NAMESPACE + "rect"):
        x, y = int(box.get("x", 0)), int(box.get("y", 0))
        assert x >= 0
        assert y >= 0
        assert x + int(box.attrib["width"]) <= drawing.width
        assert y + int(box.attrib["height"]) <= drawing.height
    for text in root.iter(NAMESPACE + "text"):
        assert 0 < int(text.attrib["y"]) <= drawing.height
