"""docs/reference/configuration.md: every setting and its default, as Markdown. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from doorward.config import schema, toml
from doorward.config.duration import format_duration
from doorward.config.schema import DEFAULT_CAPACITY
from doorward.config.toml import Setting, parse
from doorward.errors import ConfigError
from doorward.model import Door, FlagFilter
from manual.escaping import cell, marked

HEAD = """\
# Every setting

Made from the program itself (`python -m manual --markdown docs/reference`). What each setting means is in
[Configuration](../configuration.md). The last column is what `doorward check` answers to wrong values: how the setting
is written, and its limits.
"""
_TOO_MANY = ", ".join(f'"{7000 + number}/tcp"' for number in range(33))
WRONG = ("{}", "[]", '""', '[""]', '"9999d"', '"1ms"', f"[{_TOO_MANY}]")  # of every kind, empty, and beyond any limit


class Table(NamedTuple):
    """A table of the file: its header, its settings, and their defaults."""

    header: str
    settings: Mapping[str, Setting]
    defaults: Mapping[str, object]


def tables() -> Iterator[Table]:
    """Yield every table, in the order of the program."""
    for name in toml.TABLES:
        if name == "doors":
            yield Table("[doors.NAME]", toml.DOOR, Door._field_defaults)
        else:
            fields = dataclasses.fields(getattr(schema, name.capitalize()))
            yield Table(f"[{name}]", getattr(toml, name.upper()), {field.name: field.default for field in fields})


def document() -> str:
    """Return the whole page."""
    return HEAD + "".join(map(_section, tables()))


def _section(table: Table) -> str:
    rows = (_row(table, key, setting) for key, setting in table.settings.items())
    return (
        f"\n## `{table.header}`\n\n| setting | default | `doorward check` says |\n| --- | --- | --- |\n{''.join(rows)}"
    )


def _row(table: Table, key: str, setting: Setting) -> str:
    said = "; ".join(dict.fromkeys(_remedies(table.header, key)))
    return f"| `{key}` | {_default(table, setting.field)} | {cell(marked(said))} |\n"


def _remedies(header: str, key: str) -> Iterator[str]:
    """Write wrong values, and yield the remedies in the program's messages."""
    for value in WRONG:
        try:
            parse(f"{header}\n{key} = {value}\n", "")
        except ConfigError as error:
            yield from (fault.instead for fault in error.faults if fault.what.startswith(f"{key}: "))


def _default(table: Table, field: str) -> str:
    value = table.defaults.get(field)
    if field == "capacity":
        return f"`{DEFAULT_CAPACITY}`, less where memory is small"
    if value in (None, (), "", dataclasses.MISSING):
        return "none"
    return f"`{_toml(field, value)}`"


def _toml(field: str, value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, FlagFilter):
        return "[" + ", ".join(f'"{word}"' for word in str(value).split(",")) + "]"
    if isinstance(value, tuple):
        return ", ".join(f'"{one}"' for one in value)
    return f'"{format_duration(value) if field.endswith("_ms") and isinstance(value, int) else value}"'
