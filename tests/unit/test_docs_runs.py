"""Every console of the documentation is typed by a test, or is in the table of those that no test can type."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from tests.support.consoles import ELSEWHERE, Claim, Elsewhere, claims, consoles, is_typed_elsewhere, typed_in
from tests.support.documents import PAGES, ROOT, Block, blocks, name_of, without_blocks

COMMAND = r"doorward|scripts/\w+|apt|pip|systemctl|install|cp|chmod|chown|editor|nft|ssh"
CLAIMS = list(claims())
CONSOLES = [block for page in PAGES for block in blocks(page, "console")]


@cache
def claimed() -> Counter[str]:
    """Count how often each console is typed."""
    return Counter(str(block) for claim in CLAIMS for block in consoles(claim.page, *claim.places))


@pytest.mark.parametrize("block", CONSOLES, ids=str)
def test_a_console_is_typed(block: Block) -> None:
    lines = list(typed_in(block))
    assert lines, "nothing is typed there"
    if str(block) not in claimed():
        forgotten = [call.typed for call in lines if not is_typed_elsewhere(block.page, call)]
        assert forgotten == [], "no test types this: see tests/support/consoles.py"


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.test)
def test_a_claim_names_consoles_that_are_there(claim: Claim) -> None:
    found = consoles(claim.page, *claim.places)
    assert any(not is_typed_elsewhere(block.page, call) for block in found for call in typed_in(block))


@pytest.mark.parametrize("entry", ELSEWHERE, ids=lambda entry: f"{entry.page}: {entry.begins}")
def test_the_table_holds_nothing_that_is_gone(entry: Elsewhere) -> None:
    lines = [call for block in consoles(entry.page) for call in typed_in(block)]
    assert any(call.typed.startswith(entry.begins) for call in lines)
    assert entry.reason
    assert not entry.run_by or (ROOT / entry.run_by.split()[0]).is_file()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_are_in_consoles(page: Path) -> None:
    """Indented, they would be typed by nobody."""
    assert re.findall(rf"^    (?:{COMMAND}) .*", without_blocks(page), re.MULTILINE) == []


def test_a_new_console_would_be_noticed() -> None:
    new = Block("docs/database.md", 999, "console", "# doorward status\n")
    with pytest.raises(AssertionError, match="no test types this"):
        test_a_console_is_typed(new)


def test_all_kinds_of_pages_are_there() -> None:
    assert {name_of(page) for page in PAGES} >= {"README.md", "docs/tutorial.md", "docs/reference/commands.md"}
    assert len(CONSOLES) > 40
    assert all((ROOT / Path(claim.test.partition("::")[0])).is_file() for claim in CLAIMS)
