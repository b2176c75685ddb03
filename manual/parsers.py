"""Pages of programs: from a parser of argparse, or from the text that a program prints for --help."""

from __future__ import annotations

import argparse
import re

from manual import groff
from manual.parser_help import Group, Word, read_help

_OPTION_LINE = re.compile(r"^ +(?P<option>-\S.*?) {2,}(?P<what>.+)$")
_WORDS = re.compile(r"(?P<option>(?<![\w-])--?[A-Za-z0-9][\w-]*)|(?P<value>\b[A-Z][A-Z0-9]*\b)")


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


def of_parser(parser: argparse.ArgumentParser, about: str, usual_status: str) -> str:
    """Return the sections of a parser's help, from SYNOPSIS on; `about` is the section DESCRIPTION."""
    parsed = read_help(parser)
    text = synopsis(parsed.usage) + about + "".join(map(_group, parsed.groups))
    text += groff.heading("exit status") + groff.paragraph(groff.plain(parsed.status or usual_status))
    text += groff.heading("examples") + groff.verbatim(parsed.shown) if parsed.shown else ""
    return text + (groff.paragraph("\n.br\n".join(map(groff.marked, parsed.remarks))) if parsed.remarks else "")


def _group(group: Group) -> str:
    remark = groff.paragraph(groff.marked(group.remark)) if group.remark else ""
    return groff.heading(group.title) + remark + "".join(map(_entry, group.words))


def _entry(word: Word) -> str:
    names = ", ".join(map(groff.bold, word.names))
    value = groff.italic(word.value) if word.value else ""
    return groff.entry(" ".join(filter(None, (names, value))), groff.marked(word.what))


def of_usage(usage: str) -> str:
    """Return the sections of a text printed for --help, from SYNOPSIS on."""
    lines = usage.splitlines()
    text = synopsis(lines[0]) + groff.heading("options")
    for one in lines:
        if found := _OPTION_LINE.match(one):
            text += groff.entry(groff.bold(found["option"]), groff.plain(found["what"].strip()))
    shown = [one.removeprefix("example:").strip() for one in lines if one.startswith("example:")]
    return text + (groff.heading("examples") + groff.verbatim(shown) if shown else "")
