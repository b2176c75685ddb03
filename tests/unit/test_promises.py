"""docs/dev/promises.md names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
NAMED = re.compile(r"`(test_\w+\.py)::(test_\w+)`")


def test_each_promise_names_tests_that_exist() -> None:
    text = (ROOT / "docs/dev/promises.md").read_text()
    promises = re.findall(r"^\d+\. .*(?:\n   .*)*", text, re.MULTILINE)
    assert len(promises) >= 25
    assert [promise for promise in promises if not NAMED.search(promise)] == []
    defined = {
        (path.name, name)
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE)
    }
    assert [named for named in NAMED.findall(text) if named not in defined] == []
