"""Options that several commands share."""

from __future__ import annotations

import argparse
from pathlib import Path

from doorward.config.files import default_path


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
