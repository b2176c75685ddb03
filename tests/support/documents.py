"""The documentation as tests read it: its pages, and the blocks of code in them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md")])
_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^ *```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A fenced block of code."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str = "") -> Iterator[Block]:
    """Return a page's blocks, all or those of a language."""
    text = page.read_text()
    for found in _FENCE.finditer(text):
        if language in ("", found["language"]):
            indent = len(found["indent"])
            lines = (line[indent:] for line in found["text"].splitlines(keepends=True))
            yield Block(name_of(page), text.count("\n", 0, found.start()) + 2, found["language"], "".join(lines))


def heading_of(block: Block) -> str:
    """Return the words of the heading above a block, without the signs of code."""
    above = "\n".join((ROOT / block.page).read_text().splitlines()[: block.line - 1])
    found = re.findall(r"^#+ (.+)$", _FENCE.sub("", above), re.MULTILINE)
    return found[-1].replace("`", "") if found else ""


def without_blocks(page: Path) -> str:
    """Return a page's text without its fenced blocks."""
    return _FENCE.sub("", page.read_text())


class Call(NamedTuple):
    """What is typed on a line of a console, and what is printed then."""

    prompt: str  # "#" for root, "$" for anybody
    typed: str
    printed: str


def calls(block: Block) -> Iterator[Call]:
    """Return what is typed in a console, in order; a line that ends with a backslash goes on.

    In a block of `sh`, made to be pasted, every line is typed.
    """
    if block.language == "sh":
        yield from (Call("$", line.partition(" #")[0].rstrip(), "") for line in block.text.splitlines())
        return
    for part in re.split(r"^(?=[#$] )", block.text, flags=re.MULTILINE):
        if part[:2] in ("# ", "$ "):
            typed, _, printed = part[2:].replace("\\\n", " ").partition("\n")
            yield Call(part[0], typed, printed)


def build_site(folder: Path) -> Path:
    """Build the site by the words of scripts/docs; a page that the navigation lacks is a fault, too."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr  # --quiet would keep it from seeing what is wrong
    return folder
