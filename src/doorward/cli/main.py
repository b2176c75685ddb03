"""`doorward COMMAND …`: find the command's module, parse its arguments, turn errors into an exit status.

Only the requested command's module is imported: a knock must be sent without delay.
"""

from __future__ import annotations

import gc
import os
import sys

from doorward import __version__
from doorward.errors import DoorwardError, HostError
from doorward.escape import visible

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Protocol

    class Command(Protocol):
        """The interface of a command's module."""

        EXAMPLE: str

        def add_arguments(self, parser: argparse.ArgumentParser) -> None:
            """Declare the command-line arguments."""

        def run(self, args: argparse.Namespace) -> int:
            """Run the command and return the exit status."""


GROUPS = {
    "Set up": {
        "init": "set up this server: write a configuration, print the client setup",
        "run": "run the daemon in the foreground",
        "check": "validate the configuration and rate its strength",
        "doctor": "find problems: lock-out risks and conflicting firewall rules",
        "compile": "print the nftables ruleset",
        "key": "print the server's key for signed knocks",
        "allow": "let a public key send signed knocks: add it to authorized_keys",
        "revoke": "remove a person's keys from authorized_keys",
        "people": "list who may send signed knocks",
        "share": "share doors with phones and other clients: link, QR code, page",
        "completion": "print a shell completion script",
    },
    "Daily use": {
        "status": "show open doors and the daemon's state",
        "open": "open a door to an address",
        "close": "close a door to an address",
        "ban": "close every door to an address for a time and ignore its knocks",
        "unban": "end the ban of an address",
        "log": "show the access log: openings, refusals and bans",
        "watch": "show a live view of events, or lines if not on a terminal",
        "report": "write an HTML report of openings, refusals and weak settings",
        "metrics": "export Prometheus metrics",
        "apply": "load another configuration, permanently or on trial",
        "confirm": "keep the configuration that is on trial",
        "off": "switch doorward off: remove the ruleset, even across reboots",
        "on": "switch doorward on again",
        "fleet": "remove a gate that has left the fleet",
    },
    "Client": {
        "add": "add a server to this client",
        "hosts": "list the servers that this client knows",
        "remove": "remove a server from this client",
        "knock": "knock at a host, and wait for a port if asked to",
        "proxy": "knock and connect, as OpenSSH's ProxyCommand",
        "hold": "keep a door open while a command or the terminal lives",
    },
    "Diagnose": {
        "explain": "show why a knock did or did not open a door, packet by packet",
        "verify": "scan a server from outside, before, during and after a knock",
        "lab": "demo: watch it work on this machine, in network namespaces",
    },
    "Migrate": {
        "import": "convert a knockd or fwknop configuration",
    },
}
COMMANDS = {name: what for group in GROUPS.values() for name, what in group.items()}


# The commands that are run in a hurry.
_PLAIN = ("knock", "proxy")


def load(name: str) -> Command:
    """Import the module of one command. HostError if it belongs to a package that is not installed."""
    full_name = f"doorward.cli.{name}"
    try:
        # As import_module, which would have to be imported itself.
        module: Command = __import__(full_name, None, None, ["run"])
    except ModuleNotFoundError as error:
        if error.name != full_name:
            raise
        raise HostError(
            "client-alone", f"this is the client alone, without `doorward {name}`; install the package doorward"
        ) from None
    return module


def build_parser(name: str) -> argparse.ArgumentParser:
    """Build the parser of one command, with its example below the options."""
    import argparse

    command = load(name)
    parser = argparse.ArgumentParser(
        prog=f"doorward {name}",
        description=COMMANDS[name],
        epilog="example:\n" + command.EXAMPLE,
        # Querying the terminal's width would import compression libraries before a knock.
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, width=78),
    )
    command.add_arguments(parser)
    return parser


def overview() -> str:
    """Return the text of `doorward --help`."""
    width = max(map(len, COMMANDS))
    rows = "\n".join(
        f"{title}:\n" + "\n".join(f"  {name:<{width}}  {what}" for name, what in group.items())
        for title, group in GROUPS.items()
    )
    return (
        "usage: doorward COMMAND …    (`doorward help COMMAND` explains one)\n"
        "Hides services behind closed, silent ports, and opens them to a secret knock.\n"
        f"{rows}\n"
    )


def main(argv: list[str] | None = None) -> int:
    """Run one command. Exit status: 0 success, 1 negative result, 2 usage or configuration error."""
    if argv is None and sys.argv[1:] and sys.argv[1] in _PLAIN:
        _skip_garbage_collection()
    try:
        try:
            status = _dispatch(sys.argv[1:] if argv is None else argv)
        except SystemExit:  # argparse has printed help
            sys.stdout.flush()
            raise
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


def _skip_garbage_collection() -> None:
    """Keep the garbage collector from searching all modules, which takes a sixth of a signed knock's time."""
    import atexit

    gc.set_threshold(100_000)  # above what imports allocate (27,000 with `cryptography` 38); a relay is still collected
    atexit.register(gc.freeze)  # so that the collection at exit has nothing to search


def _dispatch(words: list[str]) -> int:
    if words[:1] == ["help"] and words[1:]:
        words = [words[1], "--help"]
    if not words or words[0] in ("-h", "--help", "help"):
        sys.stdout.write(overview())
        return 0 if words else 2
    if words[0] in ("-V", "--version", "version"):
        sys.stdout.write(f"doorward {__version__}\n")
        return 0
    if words[0] not in COMMANDS:
        return _unknown(words[0])
    return _run(load(words[0]), parse(words[0], words[1:]))


def _run(command: Command, args: argparse.Namespace) -> int:
    """Run a command. HostError if it needs `cryptography`, which is not installed."""
    try:
        return command.run(args)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "cryptography":
            raise
        from doorward.libraries import install_command

        remedy = f"run `{install_command('cryptography')}`"
        raise HostError("no-cryptography", f"signed knocks need the Python library cryptography; {remedy}") from None


def _parse_plain(name: str, words: list[str]) -> argparse.Namespace | None:
    from doorward.cli.plain_parser import PlainParser

    parser = PlainParser()
    load(name).add_arguments(parser)  # type: ignore[arg-type] # has the part of the interface that these commands use
    return parser.parse(words)  # type: ignore[return-value] # a namespace, though not argparse's


def parse(name: str, words: list[str]) -> argparse.Namespace:
    """Parse the arguments of one command; what follows `--` is left as it is for one that takes a command."""
    if name in _PLAIN and (plain := _parse_plain(name, words)) is not None:
        return plain
    parser = build_parser(name)
    has_command = "--" in words and parser.get_default("command") is not None
    end = words.index("--") if has_command else len(words)
    # Intermixed: plain parse_args accepts no ports after an option (Python 3.11).
    args = parser.parse_intermixed_args(words[:end])
    if has_command:
        args.command = words[end + 1 :]
    return args


def _unknown(word: str) -> int:
    from doorward.client.hosts import suggestion

    hint = suggestion(word, COMMANDS) or "`doorward --help` lists the commands"
    sys.stderr.write(f"doorward: unknown command {word!r}; {hint}\n")
    return 2


if __name__ == "__main__":
    sys.exit(main())
