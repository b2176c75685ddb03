"""`doorward completion`: print a shell completion script, or the names that it offers."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path

from doorward import __version__
from doorward.config.files import default_path, read
from doorward.errors import DoorwardError, HostError
from doorward.libraries import install_command

SHELLS = ("bash", "zsh", "fish")
_NAME = re.compile(r"[\w.:-]+")  # bash expands candidates: other host names are not offered

EXAMPLE = """\
  $ cd ~/.local/share/bash-completion/completions
  $ doorward completion bash > doorward
zsh: _doorward, in a directory of your fpath
fish: ~/.config/fish/completions/doorward.fish
the packages install the scripts; fish needs shtab 1.13 or newer"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command-line arguments."""
    parser.add_argument(
        "what",
        metavar="SHELL",
        choices=(*SHELLS, *NAMES),
        help="bash, zsh or fish, to print its script; doors or hosts, to print the names that it completes",
    )


def run(args: argparse.Namespace) -> int:
    """Print a completion script, or names."""
    if args.what in NAMES:
        sys.stdout.writelines(f"{name}\n" for name in NAMES[args.what]())
    else:
        sys.stdout.write(script(args.what))
    return 0


def script(shell: str) -> str:
    """Return the completion script for a shell. HostError if shtab is missing, or too old for the shell."""
    try:
        import shtab
    except ImportError:
        raise HostError(
            "no-shtab", f"completion needs the Python library shtab; run `{install_command('shtab')}`"
        ) from None
    if shell not in shtab.SUPPORTED_SHELLS:
        remedy = f"run `{install_command('shtab')}`, or use bash"
        raise HostError("old-shtab", f"the installed shtab does not support {shell}; {remedy}")
    parser = whole_parser(lambda action: shtab.FILE if action.type is Path else _COMPLETERS.get(_placeholder(action)))
    text: str = shtab.complete(parser, shell, preamble=_PREAMBLE.get(shell, ""))
    for wrong, right in _REPAIRS.items():
        text = text.replace(wrong, right)
    return f"{text.rstrip()}\n"


def _placeholder(action: argparse.Action) -> str:
    return str(action.metavar).lower()


def whole_parser(complete: Callable[[argparse.Action], object]) -> argparse.ArgumentParser:
    """Build one parser for all commands; `complete` returns the completer of an argument, or None."""
    from doorward.cli.main import COMMANDS, load

    parser = argparse.ArgumentParser(prog="doorward")
    parser.add_argument("-V", "--version", action="version", version=__version__, help="print the version")
    commands = parser.add_subparsers(metavar="COMMAND")
    for name, description in COMMANDS.items():
        subparser = commands.add_parser(name, help=description, description=description)
        load(name).add_arguments(subparser)
        for action in subparser._actions:  # argparse has no public list of them
            if (completer := complete(action)) is not None:
                vars(action)["complete"] = completer  # where shtab looks for it
    return parser


def _doors() -> list[str]:
    try:
        return [door.name for door in read(default_path()).doors]
    except DoorwardError:  # missing or unreadable: nothing to offer, nowhere to report it
        return []


def _hosts() -> list[str]:
    from doorward.client.hosts import hosts_path, read_hosts

    try:
        return list(filter(_NAME.fullmatch, read_hosts(hosts_path())))
    except DoorwardError:
        return []


NAMES = {"doors": _doors, "hosts": _hosts}
# What shtab needs to complete them, in the form that its oldest supported version knows too.
_QUERY = {name: f"doorward completion {name}s 2>/dev/null" for name in ("door", "host")}
_COMPLETERS = {
    name: {"bash": f"_doorward_{name}s", "zsh": f"($({query}))", "fish": f"({query})"} for name, query in _QUERY.items()
}
_PREAMBLE = {
    "bash": "\n".join(f'_doorward_{name}s() {{ compgen -W "$({query})" -- $1; }}' for name, query in _QUERY.items())
}
# shtab 1.5 (Debian 12) completes only the first word of a choice in bash; later ones have none of these texts.
_REPAIRS = {
    '_var="${current_action}_choices"': '_var="${current_action}_choices[@]"',
    '$(compgen -W "${current_action_choices}"': "$(IFS=' '; compgen -W \"${current_action_choices}\"",
}
