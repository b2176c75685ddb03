"""`doorward compile`."""

from __future__ import annotations

import argparse
import sys

from doorward.cli.options import add_config, configuration_path
from doorward.config.files import read
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
    """Print the ruleset."""
    sys.stdout.write(compile_configuration(read(configuration_path(args)), memory_bytes()).whole())
    return 0
