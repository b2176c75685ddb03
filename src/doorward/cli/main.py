"""`doorward COMMAND …`: find the command's module, parse its arguments, turn errors into an exit status.

Only the requested command's module is imported: a knock must be sent without delay.
"""

from __future__ import annotations

import argparse
import os
import sys
from importlib import import_module
from typing import Protocol

from doorward import __version__
from doorward.errors import DoorwardError
from doorward.escape import visible

COMMANDS = {
    "init": "a first configuration, and what clients need of it",
    "run": "the daemon in the foreground",
    "check": "is the configuration right, and is it strong",
    "doctor": "what would lock you out, and what stands in a door's way",
    "compile": "print the nftables ruleset",
    "apply": "load another configuration, for good or on trial",
    "confirm": "keep the gate that is on trial",
    "off": "remove the gate, and keep it away, also after a reboot",
    "on": "bring the gate back that was switched off",
    "status": "what is open, and who opened it",
    "open": "open a door by hand",
    "close": "close a door by hand",
    "ban": "close every door to an address for a time, and ignore its knocks",
    "unban": "let a banned address knock again",
    "explain": "why a knock did or did not open a door, packet by packet",
    "log": "the record of openings, refusals and bans",
    "watch": "a live view of all that happens, or lines where no terminal is",
    "metrics": "the daemon's numbers for Prometheus",
    "report": "a page about who came in, who was refused, and what is weak",
    "knock": "knock at a host",
    "proxy": "knock and carry the connection: OpenSSH's ProxyCommand",
    "add": "a host for the client, with its server's key",
    "key": "the server's key for signed knocks",
    "verify": "from outside: what can be seen, and does the knock open and close",
    "share": "a door for phones and other clients: link, QR code, app",
    "fleet": "forget a gate that has left the fleet",
    "import": "knockd's or fwknop's configuration turned into doorward's own",
    "completion": "what a shell needs to complete words of doorward",
    "lab": "the whole thing in network namespaces, step by step",
}


class Command(Protocol):
    """The interface of a command's module."""

    EXAMPLE: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the command-line arguments."""

    def run(self, args: argparse.Namespace) -> int:
        """Run the command and return the exit status."""


def load(name: str) -> Command:
    """Import the module of one command."""
    module: Command = import_module(f"doorward.cli.{name}")
    return module


def build_parser(name: str) -> argparse.ArgumentParser:
    """Build the parser of one command, with its example below the options."""
    command = load(name)
    parser = argparse.ArgumentParser(
        prog=f"doorward {name}",
        description=COMMANDS[name],
        epilog="example:\n" + command.EXAMPLE,
        # Querying the terminal's width would import compression libraries before a knock.
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, width=78),
    )
    command.add_arguments(parser)
    parser.set_defaults(run=command.run)
    return parser


def overview() -> str:
    """Return the text of `doorward --help`."""
    width = max(map(len, COMMANDS))
    rows = "\n".join(f"  {name:<{width}}  {what}" for name, what in COMMANDS.items())
    return (
        "usage: doorward COMMAND …\n\n"
        "Hides services behind closed, silent ports, and opens them to a secret knock.\n\n"
        f"{rows}\n\n`doorward COMMAND --help` explains one; `doorward --version` says which this is.\n"
    )


def main(argv: list[str] | None = None) -> int:
    """Run one command. Exit status: 0 success, 1 negative result, 2 usage or configuration error."""
    try:
        status = _dispatch(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
    except DoorwardError as error:
        sys.stderr.write("".join(f"doorward: {visible(line)}\n" for line in str(error).splitlines()))
        return error.exit_status
    except BrokenPipeError:  # the reader of a pipe has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
    return status


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        sys.stdout.write(overview())
        return 0 if words else 2
    if words[0] in ("-V", "--version"):
        sys.stdout.write(f"doorward {__version__}\n")
        return 0
    if words[0] not in COMMANDS:
        return _unknown(words[0])
    # Intermixed: plain parse_args accepts no ports after an option (Python 3.11).
    args = build_parser(words[0]).parse_intermixed_args(words[1:])
    status: int = args.run(args)
    return status


def _unknown(word: str) -> int:
    import difflib

    near = difflib.get_close_matches(word, COMMANDS, n=1)
    hint = f"did you mean {near[0]!r}?" if near else "`doorward --help` lists the commands"
    sys.stderr.write(f"doorward: {word!r} is no command; {hint}\n")
    return 2


if __name__ == "__main__":
    sys.exit(main())
