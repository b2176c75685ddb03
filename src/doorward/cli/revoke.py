"""`doorward revoke NAME`: remove a person's keys from authorized_keys."""

from __future__ import annotations

import argparse

from doorward.cli.allow import describe, edit, find_keys
from doorward.cli.options import add_config
from doorward.cli.output import line
from doorward.client.hosts import suggestion
from doorward.errors import NegativeResult
from doorward.signed.authorized_keys import Line, parse, remove_keys

EXAMPLE = """\
  # doorward revoke grace
  removed grace (SHA256:…), which opened ssh for at most 1h
what the key has opened stays open until its time is over: `doorward status`"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command-line arguments."""
    parser.add_argument("name", metavar="NAME", help="name at the end of the key's line, or its fingerprint SHA256:…")
    add_config(parser)


def run(args: argparse.Namespace) -> int:
    """Remove every key of that name, and print what each could open."""
    _, path = find_keys(args)

    def remove(text: str) -> tuple[str, list[Line]]:
        new, removed = remove_keys(text, str(path), args.name)
        if not removed:
            hint = suggestion(args.name, [line.name for line in parse(text, str(path))[0].lines])
            raise NegativeResult(
                "no-such-key", f"{path}: no key {args.name!r}; {hint or '`doorward people` lists them'}"
            )
        return new, removed

    for key in edit(path, remove):
        line(f"removed {describe(key, ', which opened')}")
    return 0
