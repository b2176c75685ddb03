"""The graph shows every table entry of the automaton, once, and nothing else."""

from __future__ import annotations

import os
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorward.cli.main import main
from doorward.core.automaton import compile_doors
from doorward.model import Door, Port, Protocol
from doorward.report.automaton_graph import FAILURE, MOST_STATES, count_states, draw_svg
from doorward.verify.picture import FAINT, INK
from tests.support.strategies import World, worlds

ROOT = Path(__file__).parents[3]
PICTURE = ROOT / "docs/pictures/automaton.svg"
SVG = "{http://www.w3.org/2000/svg}"


def example() -> str:
    found = re.search(r"```toml\n(.*?)```", (ROOT / "docs/dev/design.md").read_text(), re.DOTALL)
    assert found
    return found[1]


def parsed(text: str) -> ElementTree.Element:
    return ElementTree.fromstring(text)  # noqa: S314 (our own)


def test_manual_picture_matches_its_example(tmp_path: Path) -> None:
    config, drawn = tmp_path / "doorward.toml", tmp_path / "automaton.svg"
    config.write_text(example())
    assert main(["compile", "-c", str(config), "--graph", str(drawn)]) == 0
    if os.environ.get("GOLDEN") == "write":  # after a change: write, then look at it
        PICTURE.write_text(drawn.read_text())
    assert PICTURE.read_text() == drawn.read_text()


def test_no_failure_link_of_the_manual_crosses_a_label() -> None:
    root = parsed(PICTURE.read_text())
    links = [path.get("d", "") for path in root.iterfind(f"{SVG}path") if path.get("marker-end") == "url(#fall)"]
    assert len(links) == 2
    labels = [text for text in root.iterfind(f"{SVG}text") if re.search("/(tcp|udp)$", text.text or "")]
    assert len(labels) == 8
    for link in links:
        (x0, y0), (x1, y1), (x2, y2) = (
            [int(part) for part in pair.split()] for pair in re.split("[MQ]| (?=[^ ]+ [^ ]+$)", link)[1:]
        )
        for label in labels:
            right, base = int(label.get("x", "0")), int(label.get("y", "0"))
            for t in (step / 100 for step in range(101)):
                a, b, c = (1 - t) ** 2, 2 * t * (1 - t), t**2
                x, y = a * x0 + b * x1 + c * x2, a * y0 + b * y1 + c * y2
                assert not (right - 8 * len(label.text or "") < x < right and base - 11 < y < base), label.text


@given(worlds())
def test_every_table_entry_is_drawn_once_and_inside_the_view_box(world: World) -> None:
    automaton = compile_doors(world.doors)
    names = [door.name for door in world.doors]
    root = parsed(draw_svg(automaton, names))
    paths = [path.get("stroke") for path in root.iterfind(f"{SVG}path")]
    assert paths.count(INK) == sum(len(machine.edges) for machine in automaton.machines) + 1  # and one in the legend
    assert paths.count(FAILURE) == sum(len(machine.fail) for machine in automaton.machines) + 1
    assert paths.count(FAINT) == sum(len(machine.repeats) for machine in automaton.machines) + 1
    circles = [(circle.get("cx"), circle.get("cy")) for circle in root.iterfind(f"{SVG}circle")]
    assert len(circles) == len(set(circles)) == count_states(automaton)
    texts = ["".join(text.itertext()) for text in root.iterfind(f"{SVG}text")]
    opened = [name for text in texts if text.startswith("opens ") for name in text.removeprefix("opens ").split(", ")]
    assert set(opened) == set(names)
    numbers = sorted(int(text) for text in texts if text.isdecimal())
    assert numbers == sorted(state for machine in automaton.machines for state in machine.edges.values())
    width, height = int(root.get("width", "0")), int(root.get("height", "0"))
    for each in root.iter():
        for name, most in (("cx", width), ("x", width), ("cy", height), ("y", height)):
            assert 0 <= int(each.get(name, "0")) <= most


@given(st.lists(st.integers(1, 65535), min_size=1, max_size=32))
def test_longest_sequence_is_drawn(numbers: list[int]) -> None:
    door = Door("d", tuple(Port(Protocol.TCP, number) for number in numbers), ())
    assert parsed(draw_svg(compile_doors([door]), ["d"])).tag == f"{SVG}svg"


MANY = "".join(
    f'[doors.d{number}]\nknock = ["{1000 + number}/tcp", "7000/tcp"]\nopens = ["22/tcp"]\n'
    for number in range(MOST_STATES // 2)
)


@pytest.mark.parametrize(
    ("text", "path", "error"),
    [
        ('[doors.d]\nopens = ["22/tcp"]\n', "x.svg", "no door has a sequence"),
        (MANY, "x.svg", f"{MOST_STATES + 1} states are too many to draw"),
        (MANY[:70], "missing/x.svg", "cannot be written: No such file or directory"),
    ],
)
def test_graph_errors(text: str, path: str, error: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "doorward.toml"
    config.write_text(text[: text.rindex("\n") + 1])
    assert main(["compile", "-c", str(config), "--graph", str(tmp_path / path)]) == 2
    assert error in capsys.readouterr().err
