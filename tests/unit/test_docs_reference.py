"""The pages of the reference that are made from the program are what it makes now, and agree with what people wrote."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from doorward.cli.main import COMMANDS, build_parser
from doorward.config.duration import parse_duration_ms
from manual import reference
from manual.parser_help import read_help

DOCS = Path(__file__).parents[2] / "docs"
REWRITE = "they differ; `python -m manual --markdown docs/reference` updates it"
Table = dict[str, dict[str, str]]  # of a page: header, setting, default


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
        for group in read_help(build_parser(name)).groups:
            for word in group.words:
                assert f"\n| `{', '.join(word.names) or word.value}" in section, (name, word)


def defaults(path: Path) -> Table:
    """Return the default of each setting, by the page's headings."""
    table: Table = {}
    for section in re.split(r"^## ", path.read_text(), flags=re.MULTILINE)[1:]:
        rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| (.*?) \| ", section, re.MULTILINE)
        if section.startswith("`["):
            table[section.split("`")[1]] = {
                name: default for names, default in rows for name in re.findall(r"\w+", names)
            }
    return table


def test_the_defaults_that_people_wrote_are_those_of_the_program() -> None:
    written, made = defaults(DOCS / "configuration.md"), defaults(DOCS / "reference/configuration.md")
    assert {header: set(rows) for header, rows in written.items()} == {
        header: set(rows) for header, rows in made.items()
    }
    for header, rows in made.items():
        for setting, default in rows.items():
            said = written[header][setting]
            if default.startswith("`"):
                assert meant(said) == meant(default), setting
            else:
                assert not said.startswith("`"), setting


def meant(default: str) -> str:
    """Return a default in one way of writing it: durations in milliseconds, numbers without what is said of them."""
    word = default.split(",")[0].strip('`"') if not default.startswith("`[") else default
    try:
        return str(parse_duration_ms(word))
    except ValueError:
        return word
