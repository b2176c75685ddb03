"""Every message has a code, and its wording is in one golden file per area; `GOLDEN=write` renews these files.

Tests assert codes, so that a wording can change in one place: the source and tests/golden/messages/AREA.txt.
"""

from __future__ import annotations

import ast
import os
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

from tests.support.documents import ROOT

SOURCE = ROOT / "src" / "doorward"
GOLDEN = ROOT / "tests" / "golden" / "messages"
CODE = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
PASSED_ON = re.compile(r"code|[\w.]+\.code")  # a code that comes with the text that it belongs to
TEXTS = {  # what makes a message, and the places of its texts among the arguments; the code is the first
    "ConfigFault": (3, 4),
    "Finding": (3, 4),
    "LocatedFinding": (3, 4),
    "Problem": (3, 4),
    "UnsafePath": (1, 2),
    "log.message": (1,),
    "report.add": (2, 3),
    "self._log": (2,),  # the fleet process
    "self.fault": (2, 3),
    "self.message": (1,),  # of the log itself
}
INTERNAL = {  # their ValueErrors do not leave the module: they become one MalformedError or a default
    "daemon/hook_runner.py", "daemon/ledger.py", "daemon/verifier_report.py", "fleet/etcd_records.py",
    "fleet/protocol.py", "shield/report.py",
}  # fmt: skip


class Site(NamedTuple):
    """One place that makes a message."""

    path: Path
    call: ast.Call
    function: ast.AST  # the function around it, or the module
    texts: tuple[int, ...]

    @property
    def area(self) -> str:
        return self.path.relative_to(SOURCE).parts[0].removesuffix(".py")

    @property
    def code(self) -> str:
        """The literal code, or empty if the code is passed on."""
        first = self.call.args[0] if self.call.args else None
        if isinstance(first, ast.Constant) and isinstance(first.value, str) and CODE.fullmatch(first.value):
            return first.value
        assert first is not None, self
        assert PASSED_ON.fullmatch(ast.unparse(first)), f"{self.path.name}:{self.call.lineno}: no code"
        return ""

    @property
    def template(self) -> str:
        texts = [self.call.args[place] for place in self.texts if place < len(self.call.args)]
        return "; ".join(template(text, self.function, self.call.lineno) for text in texts).replace("\n", "\\n")


@cache
def trees() -> dict[Path, ast.Module]:
    """Parse the sources: in the tests, since every worker imports this module."""
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(SOURCE.rglob("*.py"))}


def error_classes() -> set[str]:
    """Return the classes of errors whose first argument is a code."""
    classes = [node for tree in trees().values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    found = {"DoorwardError", "InvalidValueError"}
    while (
        more := {
            node.name for node in classes if {ast.unparse(base) for base in node.bases} & found and not has_init(node)
        }
        - found
    ):
        found |= more
    return found


def has_init(node: ast.ClassDef) -> bool:
    """Return whether a class has other arguments, and finds the code itself."""
    return any(isinstance(item, ast.FunctionDef) and item.name == "__init__" for item in node.body)


@cache
def sites() -> tuple[Site, ...]:
    return tuple(found_sites())


def found_sites() -> Iterator[Site]:
    kinds = TEXTS | dict.fromkeys(error_classes(), (1,))
    for path, tree in trees().items():
        inner = {call: function for function in functions(tree) for call in ast.walk(function)}  # the innermost is last
        for call in ast.walk(tree):
            if isinstance(call, ast.Call):
                name = ast.unparse(call.func)
                kind = "log.message" if name.endswith("log.message") else name.removeprefix("protocol.")
                if kind in kinds:
                    yield Site(path, call, inner.get(call, tree), kinds[kind])


def functions(tree: ast.AST) -> Iterator[ast.AST]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def template(text: ast.AST, function: ast.AST, line: int) -> str:
    """Return a text with {expressions}; alternatives are separated by ` | `. It is used at `line` of `function`."""
    match text:
        case ast.Constant(value=str(value)):
            return value
        case ast.JoinedStr(values=parts):
            return "".join(template(part, function, line) for part in parts)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return template(left, function, line) + template(right, function, line)
        case ast.IfExp(body=body, orelse=orelse):
            return f"({template(body, function, line)} | {template(orelse, function, line)})"
        case ast.FormattedValue(value=ast.Name() | ast.IfExp() as value, conversion=-1):
            return template(value, function, line)
        case ast.FormattedValue(value=value, conversion=conversion):
            return f"{{{ast.unparse(value)}{'' if conversion < 0 else '!' + chr(conversion)}}}"
        case ast.Name(id=name):
            found = [(value, at) for value, at in assigned(name, function, line) if is_text(value)]
            return " | ".join(template(value, function, at) for value, at in found) or f"{{{name}}}"
    return f"{{{ast.unparse(text)}}}"


def assigned(name: str, function: ast.AST, line: int) -> list[tuple[ast.AST, int]]:
    """Return the values that a name may have at a line: those assigned since its use before, or else the last one."""
    names = [node for node in ast.walk(function) if isinstance(node, ast.Name) and node.id == name]
    used = max((node.lineno for node in names if isinstance(node.ctx, ast.Load) and node.lineno < line), default=0)
    values: list[tuple[ast.AST, int]] = [
        (node.value, node.lineno)
        for node in ast.walk(function)
        if isinstance(node, ast.Assign) and assigns(node, name) and node.lineno < line
    ]
    return [each for each in values if each[1] > used] or sorted(values, key=lambda each: each[1])[-1:]


def assigns(node: ast.Assign, name: str) -> bool:
    return any(isinstance(target, ast.Name) and target.id == name for target in node.targets)


def is_text(value: ast.AST) -> bool:
    return isinstance(value, ast.Constant | ast.JoinedStr | ast.BinOp | ast.IfExp)


@cache
def templates() -> dict[str, dict[str, list[str]]]:
    """Return the texts of each code of each area, sorted."""
    found: defaultdict[str, defaultdict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for site in sites():
        texts = found[site.area]
        if site.code:
            texts[site.code].add(site.template)
    return {area: {code: sorted(codes[code]) for code in sorted(codes)} for area, codes in sorted(found.items())}


def test_every_message_has_a_code() -> None:
    assert len([site.code for site in sites() if site.code]) > 600


def test_wording_is_golden() -> None:
    texts = {
        f"{area}.txt": [f"{code}: {each}" for code, texts in codes.items() for each in texts]
        for area, codes in templates().items()
    }
    if os.environ.get("GOLDEN") == "write":
        GOLDEN.mkdir(exist_ok=True)
        for name, lines in texts.items():
            (GOLDEN / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    assert texts == {path.name: path.read_text(encoding="utf-8").splitlines() for path in GOLDEN.glob("*.txt")}


def test_a_code_means_one_fault() -> None:
    """Two texts of one code share a word, or both have one of the code's, unless one is all placeholders."""
    strays = [
        (code, one, other)
        for codes in templates().values()
        for code, texts in codes.items()
        for one, other in combinations(texts, 2)
        if words(one) and words(other) and not words(one) & words(other)
        if not (words(code) & words(one) and words(code) & words(other))
    ]
    assert strays == []


def words(text: str) -> set[str]:
    return {word[:5].lower() for word in re.findall(r"[A-Za-z]{3,}", re.sub(r"\{[^}]*\}", "", text).partition("; ")[0])}


def test_a_rejected_value_has_a_code_too() -> None:
    """A plain ValueError stays inside its module."""
    raising = {
        str(path.relative_to(SOURCE))
        for path, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "ValueError" and node.args
    }
    assert raising <= INTERNAL
