"""`doorward fleet`."""

from __future__ import annotations

import argparse

from doorward.cli import render
from doorward.cli.fleeting import office
from doorward.cli.options import add_config

EXAMPLE = """\
  # doorward fleet forget edge-1    # its host is gone
  edge-1 is forgotten; if its daemon starts again, it is listed again
exit status: 0 forgotten, 1 the gate is up or unknown"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's words."""
    parser.add_argument("action", metavar="forget", choices=["forget"], help="remove a gate from `status --fleet`")
    parser.add_argument("gate", metavar="GATE", help="its name; its daemon no longer runs")
    add_config(parser)


def run(args: argparse.Namespace) -> int:
    """Remove a gate from the fleet's members."""
    with office(args) as fleet:
        fleet.forget(args.gate)
    render.line(f"{args.gate} is forgotten; if its daemon starts again, it is listed again")
    return 0
