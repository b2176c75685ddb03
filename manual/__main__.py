"""Write the manual pages and the shells' completions, or the pages of the reference that are made from the program."""

from __future__ import annotations

import argparse
from pathlib import Path

from manual import reference, share

parser = argparse.ArgumentParser(prog="python -m manual", description=__doc__)
parser.add_argument(
    "directory", metavar="DIRECTORY", type=Path, help="where to; the files of a package go below its share/"
)
parser.add_argument("--markdown", action="store_true", help="write the pages of the reference (docs/reference)")
args = parser.parse_args()
(reference if args.markdown else share).write(args.directory)
