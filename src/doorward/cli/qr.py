"""Print a link as a QR code in the terminal, for a phone to read."""

from __future__ import annotations

import os
import sys
from io import StringIO

from doorward.cli.output import colored_line, line
from doorward.errors import HostError
from doorward.libraries import install_command

_WHITE_ON_BLACK, _PLAIN = "\x1b[97;40m", "\x1b[0m"  # scanners need dark on light on any terminal


def show(link: str) -> None:
    """Print the link and its QR code. HostError as in `draw`, after the link is printed."""
    line(link)
    draw(link)


def draw(link: str) -> None:
    """Print the QR code. HostError if segno is missing, or if the code does not fit."""
    try:
        import segno
    except ImportError:
        remedy = f"run `{install_command('segno')}`, or send the link"
        raise HostError("no-segno", f"a QR code needs the Python library segno; {remedy}") from None
    try:
        code = segno.make_qr(link, error="l")
    except segno.DataOverflowError:
        raise HostError(
            "link-too-long", f"the link has {len(link)} characters, too many for a QR code; send the link itself"
        ) from None
    drawn = StringIO()
    code.terminal(drawn, compact=True)
    rows = drawn.getvalue().splitlines()
    if sys.stdout.isatty() and os.get_terminal_size().columns < len(rows[0]):
        raise HostError(
            "terminal-too-narrow", f"the QR code is {len(rows[0])} columns wide; widen the terminal, or send the link"
        )
    for row in rows:
        colored_line(f"{_WHITE_ON_BLACK}{row}{_PLAIN}" if sys.stdout.isatty() else row)
