"""The pages of the reference that are made from the program are what it makes now, and agree with what people wrote."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from doorward.cli.main import COMMANDS, build_parser
from doorward.config import schema, toml
from doorward.config.duration import parse_duration_ms
from doorward.config.toml import Setting, parse
from doorward.errors import ConfigError
from doorward.model import Door, FlagFilter, Port
from manual import reference
from manual.commands import HEAD, LEFT_OUT
from manual.parser_help import read_help

DOCS = Path(__file__).parents[2] / "docs"
REWRITE = "they differ; `python -m manual --markdown docs/reference` updates it"


@pytest.fixture(autouse=True)
def usual_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CONFIGURATION_DIRECTORY", "STATE_DIRECTORY", "RUNTIME_DIRECTORY"):
        monkeypatch.setenv(name, "/elsewhere")  # the pages name the usual ones all the same


@pytest.mark.parametrize("name", reference.texts())
def test_the_page_is_up_to_date(name: str) -> None:
    assert (DOCS / "reference" / name).read_text() == reference.texts()[name], REWRITE


def test_regenerating_them(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "manual", "--markdown", tmp_path], check=True)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == reference.texts()


def test_help_writes_nothing(tmp_path: Path) -> None:
    call = [sys.executable, "-m", "manual", "--help"]
    env = os.environ | {"PYTHONPATH": f"{DOCS.parent}:{DOCS.parent / 'src'}"}
    done = subprocess.run(call, cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage: python -m manual ")
    assert list(tmp_path.iterdir()) == []


def test_every_command_and_option_has_its_place() -> None:
    text = reference.texts()["commands.md"]
    for name in COMMANDS:
        section = text[text.index(f"\n## `doorward {name}`\n") :].split("\n## ")[1]
        groups = read_help(build_parser(name)).groups
        for group in (group for group in groups if group.title != "signed knocks" or name == "knock"):
            for word in (word for word in group.words if LEFT_OUT.isdisjoint(word.names)):
                assert f"\n| `{', '.join(word.names) or word.value}" in section, (name, word)
    assert all(f"`{option}" in HEAD for option in LEFT_OUT)


class Row(NamedTuple):
    type: str
    default: str


def written() -> dict[str, dict[str, Row]]:
    """Return the settings of docs/configuration.md, by the page's headings."""
    tables = {}
    for section in re.split(r"^## ", (DOCS / "configuration.md").read_text(), flags=re.MULTILINE)[1:]:
        if section.startswith("`["):
            rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \| ([^|]+) \| [^|]*\| [^|]+ \|$", section, re.MULTILINE)
            tables[section.split("`")[1]] = {name: Row(kind, default) for name, kind, default in rows}
    return tables


def made() -> Iterator[tuple[str, Mapping[str, Setting], Mapping[str, object]]]:
    """Yield each table of the program: its header, its settings, and their defaults by field."""
    for name in toml.TABLES:
        if name == "doors":
            yield "[doors.NAME]", toml.DOOR, Door._field_defaults
        else:
            fields = dataclasses.fields(getattr(schema, name.capitalize()))
            yield f"[{name}]", getattr(toml, name.upper()), {field.name: field.default for field in fields}
    stanza = {field.name: field.default for field in dataclasses.fields(schema.FwknopStanza)}
    yield "[fwknop.stanzas.NAME]", toml.STANZA, stanza


def test_the_page_has_every_setting_with_its_default() -> None:
    pages = written()
    for header, settings, defaults in made():
        assert pages[header].keys() == settings.keys()
        for name, setting in settings.items():
            default, said = defaults.get(setting.field), pages[header][name].default
            if setting.field == "capacity":
                assert said.startswith(f"{schema.DEFAULT_CAPACITY},")
            elif default in (None, (), "", dataclasses.MISSING):
                assert not said.startswith("`"), name
            else:
                assert meant(said) == as_toml(setting.field, default), name
    assert pages.keys() == {header for header, *_ in made()}


def as_toml(field: str, value: object) -> object:
    """Return a default of the program as `meant` returns that of the page."""
    if isinstance(value, Port):
        return str(value)
    if isinstance(value, FlagFilter):
        return str(value).split(",")
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return value if isinstance(value, bool) or field.endswith("_ms") else str(value)


def meant(default: str) -> object:
    """Return a default of the page as a value: durations in milliseconds."""
    value = tomllib.loads(f"x = {default.strip('`')}")["x"]
    try:
        return parse_duration_ms(value) if isinstance(value, str) else value
    except ValueError:
        return value


def codes(header: str, name: str, value: str) -> set[str]:
    """Return the codes of the faults that a value of a setting has."""
    try:
        parse(f"{header}\n{name} = {value}\n", "")
    except ConfigError as error:
        return {fault.code for fault in error.faults if fault.what.startswith(f"{name}: ")}
    return set()


def test_the_page_says_each_type() -> None:
    for header, rows in written().items():
        for name, row in rows.items():
            is_list = row.type.startswith("list of") or row.type == "command"
            assert ("not-a-list" in codes(header, name, "{}")) == (is_list and name != "port"), name
            assert (codes(header, name, "true") == set()) == (row.type == "true or false"), name
            assert (codes(header, name, "5000") == set()) == (row.type == "number" or name == "accept_mark"), name
            assert row.type != "duration" or codes(header, name, '"1s"') == set(), name
