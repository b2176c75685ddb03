"""`doorward compile`."""

from __future__ import annotations

import argparse
import sys

from doorward.cli.options import add_config, configuration_path
from doorward.config.files import read_text
from doorward.config.lines import find_lines
from doorward.config.strength import warnings
from doorward.config.toml import parse
from doorward.daemon.loading import compile_configuration, memory_bytes

EXAMPLE = """\
  # doorward compile -c doorward.toml > doorward.nft
  # nft -f doorward.nft
works with no daemon at all: knocks open doors, and the kernel closes them
exit status: 0 done, 2 the file is wrong"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's words."""
    add_config(parser)


def run(args: argparse.Namespace) -> int:
    """Print the ruleset; what is weak goes to standard error."""
    path = configuration_path(args)
    text = read_text(path)
    configuration = parse(text, str(path))
    findings = warnings(configuration, find_lines(text))
    sys.stderr.writelines(f"{path}:{finding}\n" for finding in findings if finding.level == "warning")
    sys.stdout.write(compile_configuration(configuration, memory_bytes()).whole())
    return 0
