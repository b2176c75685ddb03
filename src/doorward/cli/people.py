"""`doorward people`: list who may send signed knocks, from authorized_keys."""

from __future__ import annotations

import argparse

from doorward.cli import output
from doorward.cli.allow import find_keys
from doorward.cli.options import add_config
from doorward.config.duration import format_duration
from doorward.config.files import read_text, trusted_owners
from doorward.signed.authorized_keys import Line, parse

EXAMPLE = """\
  # doorward people
  name   opens       for at most      until      key
  ada    every door  the door's time  no expiry  SHA256:…
  grace  ssh         1h               no expiry  SHA256:…
exit status: 0, or 2 if a line is invalid, which authorizes nobody"""
_HEAD = ("name", "opens", "for at most", "until", "key")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command-line arguments."""
    add_config(parser)


def run(args: argparse.Namespace) -> int:
    """Print a row for each key, and the faults of invalid lines; return 2 if there are any."""
    _, path = find_keys(args)
    keys, faults = parse(read_text(path, trusted_owners()), str(path))
    output.table(_HEAD, [_row(line) for line in keys.lines])
    output.error_line(*map(str, faults))
    return 2 if faults else 0


def _row(line: Line) -> tuple[str, ...]:
    options = line.options
    return (
        f"{line.name} (authority)" if options.is_authority else line.name,
        "every door" if options.doors is None else ", ".join(sorted(options.doors)),
        "the door's time" if options.for_max_ms is None else format_duration(options.for_max_ms),
        "no expiry" if options.expires_s is None else output.format_time(options.expires_s),
        line.key.fingerprint_text,
    )
