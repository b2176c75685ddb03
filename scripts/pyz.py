"""Write the client in one file: python3 scripts/pyz.py doorward.pyz; SOURCE_DATE_EPOCH dates what is in it."""

from __future__ import annotations

import ast
import os
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

COMMANDS = ("add", "hold", "knock", "proxy")
SOURCE = Path(__file__).resolve().parents[1] / "src"
_MAIN = """\
import sys

if sys.version_info < (3, 11):
    sys.exit("doorward needs Python 3.11 or newer; run it with `python3.11 doorward.pyz`, for example")
from doorward.cli.main import main

sys.exit(main())
"""


def modules() -> list[Path]:
    """Return the modules of the commands, and all that these import."""
    found: set[Path] = set()
    waiting = [f"doorward.cli.{name}" for name in ("main", *COMMANDS)]
    while waiting:
        name = waiting.pop()
        stem = SOURCE / name.replace(".", "/")
        path = stem / "__init__.py" if stem.is_dir() else stem.with_suffix(".py")
        if not path.exists() or path in found:
            continue
        found.add(path)
        waiting += [name.rpartition(".")[0], *_imports(ast.parse(path.read_text(encoding="utf-8")))]
    return sorted(found)


def _imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def write(target: Path, date_s: int) -> None:
    """Write the file, executable on Unix; the same modules and date give the same bytes."""
    with target.open("wb") as file:
        file.write(b"#!/usr/bin/env python3\n")
        with zipfile.ZipFile(file, "w") as archive:
            contents = {str(path.relative_to(SOURCE)): path.read_bytes() for path in modules()}
            for name, raw in {"__main__.py": _MAIN.encode(), **contents}.items():
                entry = zipfile.ZipInfo(name, time.gmtime(date_s)[:6])
                entry.external_attr = 0o644 << 16
                archive.writestr(entry, raw, zipfile.ZIP_DEFLATED, 9)
    target.chmod(0o755)


if __name__ == "__main__":
    write(Path(sys.argv[1]), int(os.environ.get("SOURCE_DATE_EPOCH", time.time())))
