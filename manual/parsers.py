"""Pages of programs: from a parser of argparse, or from the text that a program prints for --help."""

from __future__ import annotations

import argparse
import re

from manual import groff

_OPTION_LINE = re.compile(r"^ +(?P<option>-\S.*?) {2,}(?P<what>.+)$")
_WORDS = re.compile(r"(?P<option>(?<![\w-])--?[A-Za-z0-9][\w-]*)|(?P<value>\b[A-Z][A-Z0-9]*\b)")
_STATUS = "exit status: "
_TITLES = {"positional arguments": "arguments"}


def synopsis(usage: str) -> str:
    """Set the line that says how a program is called: options in bold, values in italics."""
    program, _, rest = " ".join(usage.removeprefix("usage: ").split()).partition(" [")
    done, end = "", 0
    rest = f"[{rest}" if rest else ""
    for found in _WORDS.finditer(rest):
        done += groff.plain(rest[end : found.start()])
        done += groff.bold(found["option"]) if found["option"] else groff.italic(found["value"])
        end = found.end()
    return groff.heading("synopsis") + groff.paragraph(f"{groff.bold(program)} {done}{groff.plain(rest[end:])}")


def of_parser(parser: argparse.ArgumentParser) -> str:
    """Give all sections that a parser can tell, from SYNOPSIS on."""
    formatter = argparse.HelpFormatter(parser.prog, width=10_000)  # a page has its own width
    formatter.add_usage(None, parser._actions, parser._mutually_exclusive_groups, prefix="")
    text = synopsis(formatter.format_help())
    for group in parser._action_groups:
        entries = [_entry(action, formatter) for action in group._group_actions if action.help != argparse.SUPPRESS]
        if entries:
            name, _, remark = (group.title or "options").rstrip(")").partition(" (")
            text += groff.heading(_TITLES.get(name, name)) + (groff.paragraph(groff.marked(remark)) if remark else "")
            text += "".join(entries)
    return text + _epilog((parser.epilog or "").splitlines())


def _entry(action: argparse.Action, formatter: argparse.HelpFormatter) -> str:
    names = ", ".join(map(groff.bold, action.option_strings))
    value = "" if action.nargs == 0 else groff.italic(_value(action))
    term = " ".join(filter(None, (names, value)))
    return groff.entry(term, groff.marked(formatter._expand_help(action) if action.help else ""))


def _value(action: argparse.Action) -> str:
    if action.metavar is None and action.choices:
        return ", ".join(map(str, action.choices))
    return str(action.metavar or (action.dest.upper() if action.option_strings else action.dest))


def _epilog(lines: list[str]) -> str:
    """Set what stands below the options: indented examples, remarks on them, and last what the exit status means."""
    place = next((number for number, one in enumerate(lines) if one.startswith(_STATUS)), len(lines))
    status = " ".join(one.strip() for one in lines[place:]).removeprefix(_STATUS)
    shown = [one.removeprefix("  ") for one in lines[:place] if one.startswith("  ")]
    remarks = [one for one in lines[:place] if one.strip() and not one.startswith(" ") and one != "example:"]
    text = groff.heading("exit status") + groff.paragraph(groff.plain(status)) if status else ""
    text += groff.heading("example") + groff.verbatim(shown) if shown else ""
    return text + (groff.paragraph("\n.br\n".join(map(groff.marked, remarks))) if remarks else "")


def of_usage(usage: str) -> str:
    """Give the sections that a text printed for --help can tell, from SYNOPSIS on."""
    lines = usage.splitlines()
    text = synopsis(lines[0]) + groff.heading("options")
    for one in lines:
        if found := _OPTION_LINE.match(one):
            text += groff.entry(groff.bold(found["option"]), groff.plain(found["what"].strip()))
    shown = [one.removeprefix("example:").strip() for one in lines if one.startswith("example:")]
    return text + (groff.heading("example") + groff.verbatim(shown) if shown else "")
