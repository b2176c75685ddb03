"""A recording of `doorward lab` as a moving picture: `python -m manual.recording CAST SVG`.

The lab's output becomes an asciicast (version 2), and that a terminal drawn in SVG and animated by CSS alone. It has no
script and no font and requests nothing, so that pages may show it as an image.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import dropwhile, pairwise
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

COLUMNS, ROWS = 98, 26
LINE_PX, COLUMN_PX, MARGIN_PX, FONT_PX = 19, 8.43, 14, 14
WAIT_S = 1.2  # longer pauses, such as those of a scan, are cut to this
READING_S, LINE_READING_S = 0.8, 0.12  # how long a finished step can be read, and how much longer per line
END_S = 6.0  # before it starts again
STYLE = """\
text { font: 14px ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace; white-space: pre; fill: #b8c0cc }
.step { fill: #ffffff; font-weight: bold }
.role { fill: #7fd1b9 }
.typed { fill: #f2d98b }
@media (prefers-reduced-motion: reduce) { .moving { animation: none !important } }
"""


class Line(NamedTuple):
    """A line of output, and when it was printed, from the start."""

    at_s: float
    text: str


def record(command: list[str]) -> Iterator[Line]:
    """Run a command and return its lines as they are printed. CalledProcessError if it fails."""
    start_s = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for text in process.stdout or ():
            yield Line(time.monotonic() - start_s, text.rstrip("\n"))
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)


def cast(lines: list[Line]) -> str:
    """Return lines as an asciicast, version 2."""
    header = {"version": 2, "width": COLUMNS, "height": ROWS, "title": "doorward lab"}
    events = ([round(line.at_s, 3), "o", f"{line.text}\r\n"] for line in lines)
    return "".join(f"{json.dumps(entry)}\n" for entry in (header, *events))


def paced(lines: list[Line]) -> list[Line]:
    """Return the lines at times at which each step can be read: without long pauses, and with one before each step."""
    lines = list(dropwhile(lambda line: not line.text, lines))
    shown = [Line(0, lines[0].text)]
    step_lines = 1
    for before, line in pairwise(lines):
        pause_s = min(line.at_s - before.at_s, WAIT_S)
        if _is_step(line.text):
            pause_s = max(pause_s, READING_S + LINE_READING_S * step_lines)
            step_lines = 0
        step_lines += 1
        shown.append(Line(shown[-1].at_s + pause_s, line.text))
    return shown


def _is_step(text: str) -> bool:
    return bool(re.match(r"\d+\. ", text))


def draw(lines: list[Line]) -> str:
    """Return the moving picture of a terminal on which these lines appear."""
    lasts_s = lines[-1].at_s + END_S
    frames = {f"{100 * line.at_s / lasts_s:.2f}": number for number, line in enumerate(lines, 1)}  # the last of a time
    scrolled = {at: max(0, number - ROWS) for at, number in frames.items()}
    width, height = round(COLUMNS * COLUMN_PX) + 2 * MARGIN_PX, ROWS * LINE_PX + 2 * MARGIN_PX
    texts = "".join(_text(number, line.text) for number, line in enumerate(lines))
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">
<title>doorward lab: a scan sees nothing, a knock opens, the door closes, an SSH key opens it</title>
<style>
{STYLE}{_keyframes("scroll", scrolled, -1)}{_keyframes("reveal", frames, 1)}\
#lines {{ animation: scroll {lasts_s:.1f}s step-end infinite }}
#cover {{ animation: reveal {lasts_s:.1f}s step-end infinite }}
</style>
<rect width="{width}" height="{height}" rx="8" fill="#1b2028"/>
<svg x="{MARGIN_PX}" y="{MARGIN_PX}" width="{width - 2 * MARGIN_PX}" height="{ROWS * LINE_PX}">
<g id="lines" class="moving" transform="translate(0 {-LINE_PX * max(0, len(lines) - ROWS)})">
{texts}<rect id="cover" class="moving" width="{width}" height="{ROWS * LINE_PX}" fill="#1b2028" \
transform="translate(0 {LINE_PX * len(lines)})"/>
</g>
</svg>
</svg>
"""


def _keyframes(name: str, lines_at: dict[str, int], sign: int) -> str:
    frames = "".join(
        f"{at}% {{ transform: translateY({sign * LINE_PX * lines}px) }}\n" for at, lines in lines_at.items()
    )
    return f"@keyframes {name} {{\n{frames}}}\n"


def _text(number: int, text: str) -> str:
    shown = text if len(text) <= COLUMNS else f"{text[: COLUMNS - 1]}…"
    prompt = re.match(r"( +)(\w+\$)( .*)", shown)
    if _is_step(text):
        spans = f'<tspan class="step">{escape(shown)}</tspan>'
    elif prompt:
        indent, role, typed = map(escape, prompt.groups())
        spans = f'{indent}<tspan class="role">{role}</tspan><tspan class="typed">{typed}</tspan>'
    else:
        spans = escape(shown)
    return f'<text y="{number * LINE_PX + FONT_PX}" xml:space="preserve">{spans}</text>\n' if text else ""


def main(cast_path: str, svg_path: str) -> None:
    """Record the lab, and write the asciicast and the picture."""
    lines = list(record([sys.executable, "-m", "doorward", "lab"]))
    Path(cast_path).write_text(cast(lines))
    Path(svg_path).write_text(draw(paced(lines)))


if __name__ == "__main__":
    main(*sys.argv[1:])
