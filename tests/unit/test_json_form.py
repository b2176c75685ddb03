"""The form of JSON: an object a line, with the version, and times with their zone."""

from __future__ import annotations

import json
import re
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorward.cli.main import COMMANDS, build_parser
from doorward.escape import visible
from doorward.json_form import VERSION, iso_time, iso_times, json_line
from tests.support.documents import ROOT

PAGE = (ROOT / "docs/reference/json.md").read_text()
VALUES = st.recursive(
    st.text() | st.integers() | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.text(), VALUES, max_size=3))
def test_an_object_is_one_line_of_printable_ascii(fields: dict[str, object]) -> None:
    line = json_line(fields)
    assert json.loads(line) == {**fields, "version": VERSION}
    assert visible(line) == line
    assert line.isascii()


def test_the_version_is_first_and_no_field_replaces_it() -> None:
    assert json_line({"door": "ssh", "version": "other"}) == '{"version": 1, "door": "ssh"}'


@pytest.mark.parametrize("at_s", [0, 1_777_616_100.25, 253_000_000_000.0])
def test_times_have_a_zone(at_s: float) -> None:
    moment = datetime.fromisoformat(iso_time(at_s))
    assert moment.tzinfo is not None
    assert moment.timestamp() == at_s


def test_a_time_that_is_not_there_stays() -> None:
    assert iso_times({"at": 0.0, "closed": None, "door": "ssh"}, "at", "closed", "ended") == {
        "at": "1970-01-01T00:00:00.000+00:00",
        "closed": None,
        "door": "ssh",
    }


def test_the_reference_has_every_command_that_prints_json() -> None:
    commands = {name for name in COMMANDS if "--json" in build_parser(name).format_help()}
    assert set(re.findall(r"(?m)^\| `(\w+)", PAGE.partition("\n## ")[0])) == commands
