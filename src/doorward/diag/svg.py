"""Writes a drawing as SVG. Pure."""

from __future__ import annotations

from html import escape

from doorward.diag.drawing import PAPER, Drawing, Frame, Lattice, Rect, Shape

FONTS = "system-ui, 'DejaVu Sans', 'Segoe UI', Helvetica, Arial, sans-serif"


def svg_of(drawing: Drawing, title: str) -> str:
    """Give the whole file."""
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
    if isinstance(shape, Frame):
        return _box(shape) + f' fill="none" stroke="{shape.colour}" stroke-width="2"/>'
    if isinstance(shape, Lattice):
        return f'<path d="{_lines(shape)}" stroke="{shape.colour}" stroke-width="1" shape-rendering="crispEdges"/>'
    bold = ' font-weight="600"' if shape.bold else ""
    end = ' text-anchor="end"' if shape.end else ""
    return (
        f'<text x="{shape.x}" y="{shape.y}" font-size="{shape.size}" fill="{shape.colour}"{bold}{end}>'
        f"{_escaped(shape.text)}</text>"
    )


def _box(shape: Rect | Frame) -> str:
    return f'<rect x="{shape.x}" y="{shape.y}" width="{shape.width}" height="{shape.height}"'


def _lines(lattice: Lattice) -> str:
    right, bottom = lattice.columns * lattice.cell, lattice.rows * lattice.cell
    across = (f"M{lattice.x} {lattice.y + row * lattice.cell}h{right}" for row in range(1, lattice.rows))
    down = (f"M{lattice.x + column * lattice.cell} {lattice.y}v{bottom}" for column in range(1, lattice.columns))
    return "".join((*across, *down))


def _escaped(text: str) -> str:
    """Escape; what XML cannot hold (control characters, halves of surrogates) becomes a question mark."""
    return escape("".join(c if c.isprintable() else "?" for c in text))
