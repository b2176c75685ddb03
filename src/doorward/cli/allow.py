"""`doorward allow LINE`: add a public key to authorized_keys, limited to doors and times."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from doorward.cli.options import add_config, configuration_path
from doorward.cli.output import line
from doorward.client.hosts import suggestion
from doorward.config.duration import format_duration
from doorward.config.files import read, read_text, trusted_owners
from doorward.config.schema import Configuration
from doorward.config.values import MAX_FOR_MS, duration
from doorward.daemon.key_files import is_there, keys_path
from doorward.errors import HostError, InvalidValueError, UsageError
from doorward.init import install
from doorward.kernel import atomic_file
from doorward.signed.authorized_keys import Line, append_key

EXAMPLE = """\
  # doorward allow 'ssh-ed25519 AAAAC3… phone' --doors ssh --for-max 1h
  /etc/doorward/authorized_keys:4: phone (SHA256:…) opens ssh for at most 1h
the line is what a page of `doorward share --page` shows, or a .pub file's"""


Changed = TypeVar("Changed")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command-line arguments."""
    parser.add_argument("line", metavar="LINE", help="the public key: KIND KEY NAME, as one quoted argument")
    parser.add_argument("--doors", metavar="DOOR,…", help="the doors that it opens (default: every door)")
    parser.add_argument(
        "--for-max", metavar="T", help="for how long it may open a door at most, like 1h (default: the door's own time)"
    )
    add_config(parser)


def run(args: argparse.Namespace) -> int:
    """Add the line, and print what it permits."""
    if args.line.endswith(".pub") and " " not in args.line:
        raise UsageError(
            "key-file-named", f'{args.line[:80]} is a file; quote its line: `doorward allow "$(cat FILE)"`'
        )
    configuration, path = find_keys(args)
    options = _options(args, configuration)
    add = partial(append_key, file=str(path), key=args.line, options=options)
    new, added = ("", None) if is_there(path) else add(install.AUTHORIZED_KEYS_HEADER)
    if added is None or not install.write(path, new):  # it is there, perhaps since a moment ago
        added = edit(path, add)
    line(f"{path}:{added.number}: {describe(added)}")
    return 0


def find_keys(args: argparse.Namespace) -> tuple[Configuration, Path]:
    """Return the configuration, and the path of its authorized_keys. UsageError: signed knocks are off."""
    config = configuration_path(args)
    configuration = read(config)
    if configuration.signed is None:
        raise UsageError("no-signed-table", f"{config}: no [signed] table, so signed knocks are off; add it")
    return configuration, keys_path(configuration.signed, config.parent)


def _options(args: argparse.Namespace, configuration: Configuration) -> dict[str, str]:
    """Return the options in front of the key. UsageError: an unknown door, an invalid duration."""
    options = {}
    if args.doors is not None:
        known = {door.name: door for door in configuration.doors}
        for name in args.doors.split(","):
            if name not in known:
                hint = suggestion(name, known) or f"the doors are {', '.join(list(known)[:10])}"
                raise UsageError("unknown-door", f"--doors: unknown door {name!r}; {hint}")
        options["doors"] = args.doors
    if args.for_max is not None:
        try:
            duration(MAX_FOR_MS)(args.for_max)
        except InvalidValueError as error:
            raise UsageError(error.code, f"--for-max: {error}") from None
        options["for-max"] = args.for_max.strip()
    return options


def edit(path: Path, change: Callable[[str], tuple[str, Changed]]) -> Changed:
    """Change the text of the file, or of the one that a link leads to, and keep its owner and mode.

    `change` returns the new text, and what was changed. One process edits the file at a time.
    """
    target = path.resolve()
    try:
        with atomic_file.locked(target.parent):
            new, changed = change(read_text(path, trusted_owners()))
            atomic_file.replace(target, new.encode(), atomic_file.ownership(target))
            return changed
    except OSError as error:
        remedy = "run this as a user who can write there"
        raise HostError("unwritable-file", f"{path}: {error.strerror}; {remedy}") from None


def describe(added: Line, opens: str = " opens") -> str:
    """Return whose key it is and, after the verb, what it may open."""
    doors, for_max_ms = added.options.doors, added.options.for_max_ms
    which = ", ".join(sorted(doors)) if doors else "every door"
    limit = "the door's own time" if for_max_ms is None else f"at most {format_duration(for_max_ms)}"
    return f"{added.name} ({added.key.fingerprint_text}){opens} {which} for {limit}"
