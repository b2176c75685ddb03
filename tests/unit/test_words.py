"""Texts are plain English: the words of an earlier vocabulary stay out of the sources and the documentation."""

from __future__ import annotations

import io
import re
import tokenize
from pathlib import Path

import pytest

from tests.support.documents import PAGES, ROOT

BANNED = re.compile(
    r"\b[Ww]hoever\b|\b[Tt]old\b|\b[Aa]new\b|\b[Mm]end|(?<![Tt]here )\bis no (?!longer\b|more\b)[a-z]|\bis none\b"
    r"|\b[Gg]oes over to|\b[Kk]nocks right|\b[Ss]tands?\b|\bGive (?:the|a|an|what|how)\b"
)
SOURCES = sorted(path for part in ("src", "manual") for path in (ROOT / part).rglob("*.py"))
SHIPPED = sorted(
    path
    for part in ("contrib", "debian", "scripts", "systemd")
    for path in (ROOT / part).rglob("*")
    if path.is_file() and path.suffix != ".pyc"
)
TEXT_TOKENS = {"STRING", "COMMENT", "NAME", "FSTRING_MIDDLE"}  # so that the operators of `x is None` do not count


def findings(path: Path, text: str, first_line: int = 1) -> list[str]:
    name = str(path.relative_to(ROOT))
    return [
        f"{name}:{first_line + text.count(chr(10), 0, match.start())}: {match[0]}" for match in BANNED.finditer(text)
    ]


@pytest.mark.parametrize("path", [*PAGES, *SHIPPED], ids=lambda path: str(path.relative_to(ROOT)))
def test_documents_use_plain_words(path: Path) -> None:
    assert findings(path, path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_sources_use_plain_words(path: Path) -> None:
    tokens = tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline)
    texts = [(token.string, token.start[0]) for token in tokens if tokenize.tok_name[token.type] in TEXT_TOKENS]
    assert [found for text, line in texts for found in findings(path, text.replace("_", " "), line)] == []


@pytest.mark.parametrize("words", ["# whoever knocks", "def is_told", '"what stands"', '"""Give the page."""'])
def test_the_old_words_are_found(words: str) -> None:
    assert BANNED.search(words.replace("_", " "))
