"""The consoles of the documentation: which test types which, and which lines none can type.

`@pytest.mark.console("docs/database.md", 2)` gives a test the second console of a page, as its fixture `console`;
a text in the number's place names the consoles below that heading, and without any, they are all of the page's.
`tests/unit/test_docs_runs.py` holds that nothing is left over.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.support.documents import ROOT, Block, Call, blocks, calls, heading_of

TESTS = ROOT / "tests"


class Elsewhere(NamedTuple):
    """Lines of a page that no test of `scripts/test` types."""

    page: str
    begins: str  # how these lines begin; "" for every line
    reason: str
    run_by: str = ""  # what runs them all the same: a file of the tree, perhaps with options


_PACKAGES = "installs packages on the machine that runs it"
_SYSTEMD = "needs systemd as the first process"
_FROM_NET = "builds in a Debian of its own, from the net"
_PHONE = "a phone's package manager and index"
ELSEWHERE = (
    Elsewhere("CONTRIBUTING.md", "scripts/test ", "runs the tests, these too", ".ci/run"),
    Elsewhere("docs/install.md", "scripts/deb ", _FROM_NET, "scripts/deb --test"),
    Elsewhere("docs/install.md", "apt install ./build/", _PACKAGES, "scripts/deb --test"),
    Elsewhere("docs/install.md", "apt install nftables ", _PACKAGES, "scripts/test"),
    Elsewhere("docs/install.md", "python3 -m venv /opt/doorward", _PACKAGES, "tests/packaging/test_wheel.py"),
    Elsewhere("docs/install.md", "/opt/doorward/bin/pip install ", _PACKAGES, "tests/packaging/test_wheel.py"),
    Elsewhere("docs/install.md", "ln -s /opt/doorward/", "writes into the machine's own folders"),
    Elsewhere("docs/install.md", "systemctl ", _SYSTEMD, "tests/packaging/test_deb.py"),
    Elsewhere("docs/dev/kernels.md", "scripts/test-kernels", "boots two kernels, for an hour", "scripts/test-kernels"),
    Elsewhere("docs/locked-out.md", "systemctl disable ", _SYSTEMD),
    Elsewhere("docs/metrics.md", "/opt/doorward/bin/pip install ", _PACKAGES, "tests/packaging/test_wheel.py"),
    Elsewhere("docs/phone.md", "pkg install ", _PHONE),
    Elsewhere("docs/phone.md", "pip wheel ", _PHONE, "tests/packaging/test_wheel.py"),
    Elsewhere("docs/phone.md", "pip install ./doorward-", _PHONE, "tests/packaging/test_wheel.py"),
    Elsewhere("docs/dev/session.md", "", "a recorded session on a whole Debian", "tests/packaging/test_session.py"),
)


def typed_in(block: Block) -> Iterator[Call]:
    """Return what is typed in a console; a line before the first prompt counts as typed, too."""
    found = list(calls(block))
    lines = block.text.splitlines()
    first = next((number for number, line in enumerate(lines) if line[:2] in ("# ", "$ ")), len(lines))
    yield from (Call("", line, "") for line in lines[:first] if line.strip())
    yield from found


def is_typed_elsewhere(page: str, call: Call) -> bool:
    return any(page == entry.page and call.typed.startswith(entry.begins) for entry in ELSEWHERE)


def consoles(page: str, *places: int | str) -> list[Block]:
    """Return a page's consoles, all or those of these numbers, the first being 1, and below these headings."""
    found = list(blocks(ROOT / page, "console"))
    return [block for place in places for block in _at(place, found)] if places else found


def _at(place: int | str, found: list[Block]) -> list[Block]:
    if isinstance(place, int):
        return [found[place - 1]]
    there = [block for block in found if heading_of(block) == place]
    assert there, f"there is no console below {place!r}"
    return there


class Console:
    """What a test has to type, one call after the other; it is at an end when all were taken."""

    def __init__(self, page: str, *places: int | str) -> None:
        found = [call for block in consoles(page, *places) for call in typed_in(block)]
        self.left = [call for call in found if not is_typed_elsewhere(page, call)]
        assert self.left, f"nothing to type in {page} {places}"

    def __iter__(self) -> Console:
        return self

    def __next__(self) -> Call:
        if not self.left:
            raise StopIteration
        return self.left.pop(0)


class Claim(NamedTuple):
    """A test that says that it types consoles of a page."""

    test: str
    page: str
    places: tuple[int | str, ...]


def claims() -> Iterator[Claim]:
    """Read the marks of all tests."""
    for path in sorted(TESTS.rglob("test_*.py")):
        if "mark.console(" in (text := path.read_text()):
            yield from _claims_of(path, ast.parse(text))


def _claims_of(path: Path, tree: ast.Module) -> Iterator[Claim]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            for mark in node.decorator_list:
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.console":
                    page, *places = (ast.literal_eval(word) for word in mark.args)
                    yield Claim(f"{path.relative_to(ROOT)}::{node.name}", page, tuple(places))
