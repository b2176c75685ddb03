"""The help of a command's parser: usage, arguments, example, exit status. Pure."""

from __future__ import annotations

import argparse
from typing import NamedTuple

_STATUS = "exit status: "
_TITLES = {"positional arguments": "arguments"}


class Word(NamedTuple):
    """An option or an argument: its names, the placeholder of its value, and what it does."""

    names: tuple[str, ...]
    value: str
    what: str


class Group(NamedTuple):
    """Words that belong together, and a remark on them all."""

    title: str
    remark: str
    words: tuple[Word, ...]


class ParserHelp(NamedTuple):
    """The help of one parser."""

    usage: str
    groups: tuple[Group, ...]
    status: str
    shown: tuple[str, ...]  # the example's lines
    remarks: tuple[str, ...]  # the lines below the example


def read_help(parser: argparse.ArgumentParser) -> ParserHelp:
    """Read the help of a parser."""
    formatter = argparse.HelpFormatter(parser.prog, width=10_000)  # a page has its own width
    formatter.add_usage(None, parser._actions, parser._mutually_exclusive_groups, prefix="")
    groups = (_group(group, formatter) for group in parser._action_groups)
    lines = (parser.epilog or "").splitlines()
    place = next((number for number, one in enumerate(lines) if one.startswith(_STATUS)), len(lines))
    return ParserHelp(
        " ".join(formatter.format_help().split()),
        tuple(group for group in groups if group.words),
        " ".join(one.strip() for one in lines[place:]).removeprefix(_STATUS),
        tuple(one.removeprefix("  ") for one in lines[:place] if one.startswith("  ")),
        tuple(one for one in lines[:place] if one.strip() and not one.startswith(" ") and one != "example:"),
    )


def _group(group: argparse._ArgumentGroup, formatter: argparse.HelpFormatter) -> Group:
    name, _, remark = (group.title or "options").rstrip(")").partition(" (")
    actions = (action for action in group._group_actions if action.help != argparse.SUPPRESS)
    return Group(_TITLES.get(name, name), remark, tuple(_word(action, formatter) for action in actions))


def _word(action: argparse.Action, formatter: argparse.HelpFormatter) -> Word:
    value = "" if action.nargs == 0 else _value(action)
    return Word(tuple(action.option_strings), value, formatter._expand_help(action) if action.help else "")


def _value(action: argparse.Action) -> str:
    if action.metavar is None and action.choices:
        return ", ".join(map(str, action.choices))
    return str(action.metavar or (action.dest.upper() if action.option_strings else action.dest))
