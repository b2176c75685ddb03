"""`doorward compile`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from doorward.cli import output
from doorward.cli.options import add_config, configuration_path
from doorward.config.files import read_text
from doorward.config.schema import Configuration
from doorward.config.toml import parse
from doorward.config.toml_positions import find_lines
from doorward.core.automaton import compile_doors
from doorward.daemon.ruleset_loader import compile_configuration, memory_bytes
from doorward.errors import HostError, UsageError
from doorward.lint.checks import warnings

EXAMPLE = """\
  # doorward compile -c doorward.toml > doorward.nft
  # nft -f doorward.nft
works without a daemon: knocks open doors, and the kernel closes them"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command-line arguments."""
    add_config(parser)
    parser.add_argument("--graph", metavar="FILE", type=Path, help="draw the automaton as SVG instead")


def run(args: argparse.Namespace) -> int:
    """Print the ruleset or draw the automaton; warnings go to standard error."""
    path = configuration_path(args)
    text = read_text(path)
    configuration = parse(text, str(path))
    findings = warnings(configuration, find_lines(text))
    output.error_line(*(f"{path}:{finding}" for finding in findings if finding.level == "warning"))
    if args.graph is not None:
        _draw(configuration, args.graph)
    else:
        sys.stdout.write(compile_configuration(configuration, memory_bytes()).full_text())
    return 0


def _draw(configuration: Configuration, path: Path) -> None:
    from doorward.report.automaton_graph import MOST_STATES, count_states, draw_svg

    automaton = compile_doors(configuration.doors)
    if not automaton.machines:
        raise UsageError(
            "no-sequence", "--graph: no door has a sequence, so there is nothing to draw; add a `knock` to a door"
        )
    if (number := count_states(automaton)) > MOST_STATES:
        raise UsageError(
            "too-many-states", f"--graph: {number} states are too many to draw; use a file with fewer doors"
        )
    try:
        path.write_text(draw_svg(automaton, [door.name for door in configuration.doors]), encoding="utf-8")
    except OSError as error:
        raise HostError(
            "unwritable-file", f"--graph: {path} cannot be written: {error.strerror}; choose another path"
        ) from None
