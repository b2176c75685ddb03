"""The guide to the code in docs/dev/design.md names modules, classes and functions that exist."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache

import pytest

from tests.support.documents import ROOT

SOURCE = ROOT / "src/doorward"
GUIDE = (ROOT / "docs/dev/design.md").read_text().partition("\n## The code\n")[2]
NAMES = r"((?:, `[\w.]+`|`[\w.]+`)+)"
IN_TEXT = re.compile(rf"`([\w/]+\.py)`: {NAMES}")
IN_TABLE = re.compile(rf"^\| `([\w/]+\.py)` \| {NAMES}", re.MULTILINE)
PACKAGE = re.compile(r"^\| `(\w+/)` \|(.*)", re.MULTILINE)
FILE = re.compile(r"`([\w/]+\.py)`")


def named() -> Iterator[tuple[str, str]]:
    for found in (*IN_TEXT.finditer(GUIDE), *IN_TABLE.finditer(GUIDE)):
        yield from ((found[1], name) for name in re.findall(r"[\w.]+", found[2]))


def files() -> Iterator[str]:
    for package, text in PACKAGE.findall(GUIDE):
        yield from (package + name for name in FILE.findall(text))
    yield from (name for name in FILE.findall(PACKAGE.sub("", GUIDE)) if not name.startswith("tests/"))


@cache
def defined(file: str) -> frozenset[str]:
    body = ast.parse((SOURCE / file).read_text()).body
    names = {node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    names |= {
        f"{node.name}.{inner.name}"
        for node in body
        if isinstance(node, ast.ClassDef)
        for inner in node.body
        if isinstance(inner, ast.FunctionDef)
    }
    return frozenset(names)


@pytest.mark.parametrize(("file", "name"), sorted(set(named())))
def test_named_function_exists(file: str, name: str) -> None:
    assert name in defined(file)


@pytest.mark.parametrize("file", sorted(set(files())))
def test_named_file_exists(file: str) -> None:
    assert (SOURCE / file).is_file()


def test_every_package_is_described() -> None:
    packages = {f"{path.parent.name}/" for path in SOURCE.glob("*/__init__.py")}
    assert {package for package, _ in PACKAGE.findall(GUIDE)} == packages
