"""docs/reference/commands.md: what `--help` of every command says, as Markdown. Pure but for the parsers' imports."""

from __future__ import annotations

from doorward.cli import knockd, knockd_client
from doorward.cli.main import COMMANDS, GROUPS, build_parser
from manual.escaping import cell, marked
from manual.parser_help import Group, Word, read_help

HEAD = """\
# Every command

What `doorward COMMAND --help` prints. `-h` is short for `--help`, `-c FILE` names another configuration than
`/etc/doorward/doorward.toml`, `--color` (auto, always, never) overrides the default, colors on a terminal, and `-4`
and `-6` use IPv4 or IPv6 only.

Exit status, unless stated otherwise: 0 success, 1 negative result (for example: not open, not running), 2 usage or
configuration error, and nothing was changed. It is stable, as is [JSON](json.md); texts are not.
"""
LEFT_OUT = {"-h", "-c", "--color", "-4", "-6"}  # of each command; HEAD has them


def document() -> str:
    """Return the whole page."""
    overview = "".join(
        f"- {title}: {', '.join(f'[`{name}`](#doorward-{name})' for name in group)}\n"
        for title, group in GROUPS.items()
    )
    compat = [_section(name, _code("text", text)) for name, text in COMPATIBLE.items()]
    return "\n".join([HEAD, overview, *map(_command, COMMANDS), *compat])


COMPATIBLE = {"knockd": knockd.USAGE, "knock": knockd_client.USAGE}


def _command(name: str) -> str:
    parsed = read_help(build_parser(name))
    parts = [_sentence(COMMANDS[name]), _code("text", parsed.usage), *(_group(name, group) for group in parsed.groups)]
    if parsed.shown:
        parts.append(_code("console", "\n".join(parsed.shown)))
    parts += [f"{marked(remark)}\n" for remark in parsed.remarks]
    if parsed.status:
        parts.append(f"Exit status: {marked(parsed.status)}\n")
    return _section(f"doorward {name}", "\n".join(parts))


def _section(title: str, text: str) -> str:
    return f"## `{title}`\n\n{text}"


def _sentence(words: str) -> str:
    return f"{words[0].upper()}{marked(words[1:])}.\n"


def _code(language: str, text: str) -> str:
    return f"```{language}\n{text.rstrip()}\n```\n"


def _group(name: str, group: Group) -> str:
    if group.title == "signed knocks" and name != "knock":
        return f"{group.title.capitalize()}: as for [`doorward knock`](#doorward-knock).\n"
    rows = "".join(_row(word) for word in group.words if LEFT_OUT.isdisjoint(word.names))
    if not rows:
        return ""
    remark = f"{marked(group.remark)}:\n\n" if group.remark else ""
    return f"{remark}| {group.title} | |\n| --- | --- |\n{rows}"


def _row(word: Word) -> str:
    written = " ".join(filter(None, (", ".join(word.names), word.value)))
    return f"| `{cell(written)}` | {cell(marked(word.what))} |\n"
