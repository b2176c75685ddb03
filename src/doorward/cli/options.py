"""Options that several commands share."""

from __future__ import annotations

import argparse
from pathlib import Path

from doorward.config.duration import parse_duration_ms
from doorward.config.files import default_path
from doorward.config.schema import LONGEST_TRIAL_MS, SHORTEST_TRIAL_MS


def add_config(parser: argparse.ArgumentParser) -> None:
    """Declare `-c FILE`."""
    parser.add_argument(
        "-c",
        "--config",
        metavar="FILE",
        type=Path,
        help=f"the configuration (default: {default_path()})".replace("%", "%%"),
    )


def configuration_path(args: argparse.Namespace) -> Path:
    """Give the file that the call names, or the default one."""
    path: Path = default_path() if args.config is None else args.config
    return path


def trial_ms(text: str) -> int:
    """Read `--trial T`."""
    try:
        for_ms = parse_duration_ms(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if not SHORTEST_TRIAL_MS <= for_ms <= LONGEST_TRIAL_MS:
        raise argparse.ArgumentTypeError(f"a trial of {text} is too short or too long; 1s to 24h")
    return for_ms
