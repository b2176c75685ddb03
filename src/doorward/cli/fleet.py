"""`doorward fleet`."""

from __future__ import annotations

import argparse
import getpass
import socket
from pathlib import Path

from doorward.cli import render
from doorward.cli.fleeting import office
from doorward.cli.options import add_config
from doorward.config.files import read_text
from doorward.config.fleet_doors import Text, merged
from doorward.daemon.loading import compile_configuration, memory_bytes
from doorward.errors import UsageError
from doorward.fleet.office import Office

EXAMPLE = """\
  # doorward fleet push doors.toml
  version 2 of the fleet's doors stands; waiting for the gates that are up
  edge-1: 12 doors in force
  edge-2: not taken, those before stand: …
  # doorward fleet rollback
  version 1 of the fleet's doors stands; waiting for the gates that are up
  …
exit status: 0 in force at every gate that is up, 1 not at all of them,
2 the file is wrong, and nothing was stored"""
_ACTIONS = ("push", "rollback", "versions", "forget")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's words."""
    parser.add_argument("action", choices=_ACTIONS, metavar="ACTION", help=", ".join(_ACTIONS))
    parser.add_argument(
        "what",
        metavar="WHAT",
        nargs="?",
        help="push: a file with tables [doors.NAME]; rollback: a version; forget: a gate that is no more",
    )
    add_config(parser)


def run(args: argparse.Namespace) -> int:
    """Change the doors that the fleet keeps, or list their versions."""
    return {"push": _push, "rollback": _rollback, "versions": _versions, "forget": _forget}[args.action](args)


def _push(args: argparse.Namespace) -> int:
    if args.what is None:
        raise UsageError("`doorward fleet push FILE` needs a file with tables [doors.NAME]")
    doors = Text(read_text(Path(args.what)), args.what)
    with office(args) as (fleet, _, path):
        # As this gate would load it: what it refuses is not stored.
        compile_configuration(merged(Text(read_text(path), str(path)), doors), memory_bytes())
        version, revision = fleet.push(doors.text, f"{getpass.getuser()} at {socket.gethostname()}")
        return _wait(fleet, version, revision)


def _rollback(args: argparse.Namespace) -> int:
    if args.what is not None and not args.what.isdecimal():
        raise UsageError(f"{args.what!r} is no version; `doorward fleet versions` lists them")
    with office(args) as (fleet, _, _):
        version, revision = fleet.roll_back(None if args.what is None else int(args.what))
        return _wait(fleet, version, revision)


def _wait(fleet: Office, version: int, revision: int) -> int:
    render.line(f"version {version} of the fleet's doors stands; waiting for the gates that are up")
    is_everywhere = True
    for gate, doors, fault in fleet.outcomes(version, revision):
        if fault is None:
            render.line(f"{gate}: no answer")
        elif fault:
            render.line(f"{gate}: not taken, those before stand: {fault}")
        else:
            render.line(f"{gate}: {doors} door{'' if doors == 1 else 's'} in force")
        is_everywhere &= fault == ""
    return 0 if is_everywhere else 1


def _versions(args: argparse.Namespace) -> int:
    with office(args) as (fleet, _, _):
        versions = fleet.versions()
    rows = [(str(v.number), render.moment(v.at_ms / 1000), v.by, "stands" if v.is_current else "") for v in versions]
    if rows:
        render.table(("version", "pushed", "by", ""), rows)
    else:
        render.line("the fleet keeps no doors; `doorward fleet push FILE` stores some")
    return 0


def _forget(args: argparse.Namespace) -> int:
    with office(args) as (fleet, _, _):
        fleet.forget(args.what or "")
    render.line(f"{args.what} is no member of the fleet until it comes back")
    return 0
