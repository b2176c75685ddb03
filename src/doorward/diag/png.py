"""Paints a drawing as PNG, with Pillow."""

from __future__ import annotations

import io
from importlib.util import find_spec

from doorward.diag.drawing import PAPER, Drawing, Frame, Lattice, Rect, Text
from doorward.errors import HostError
from doorward.libraries import install_command

MANY_COLOURS = 64  # enough for smooth letters; this method keeps a colour that few cells have


def require_pillow() -> None:
    """HostError: Pillow is missing."""
    if find_spec("PIL") is None:
        raise HostError(
            f"a .png needs Pillow; run `{install_command('pillow')}`, or write an .svg, which needs nothing"
        )


def png_of(drawing: Drawing) -> bytes:
    """Give the whole file."""
    from PIL import Image, ImageDraw, ImageFont

    image = Image.new("RGB", (drawing.width, drawing.height), PAPER)
    brush = ImageDraw.Draw(image)
    for shape in drawing.shapes:
        if isinstance(shape, Rect):
            brush.rectangle(_corners(shape), fill=shape.fill)
        elif isinstance(shape, Frame):
            brush.rectangle(_corners(shape), outline=shape.colour, width=2)
        elif isinstance(shape, Text):
            brush.text(
                (shape.x, shape.y),
                shape.text,
                fill=shape.colour,
                font=ImageFont.load_default(shape.size),
                anchor="rs" if shape.end else "ls",
                stroke_width=0.3 if shape.bold else 0,
            )
        else:
            for line in _lines(shape):
                brush.line(line, fill=shape.colour, width=1)
    file = io.BytesIO()
    image.quantize(MANY_COLOURS, Image.Quantize.FASTOCTREE).save(file, "PNG", optimize=True)
    return file.getvalue()


def _corners(shape: Rect | Frame) -> tuple[int, int, int, int]:
    return shape.x, shape.y, shape.x + shape.width - 1, shape.y + shape.height - 1


def _lines(lattice: Lattice) -> list[tuple[int, int, int, int]]:
    right, bottom = lattice.x + lattice.columns * lattice.cell - 1, lattice.y + lattice.rows * lattice.cell - 1
    across = [lattice.y + row * lattice.cell for row in range(1, lattice.rows)]
    down = [lattice.x + column * lattice.cell for column in range(1, lattice.columns)]
    return [(lattice.x, y, right, y) for y in across] + [(x, lattice.y, x, bottom) for x in down]
