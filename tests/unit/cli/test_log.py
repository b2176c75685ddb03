"""`doorward log`: what it adds to an opening whose knock was to be confirmed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from ipaddress import ip_address
from pathlib import Path

import pytest

from doorward.cli.main import main
from doorward.daemon.ledger import Ledger
from tests.support.openings import opening

HOME = ip_address("192.0.2.7")


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))
    with closing(Ledger(tmp_path / "ledger.sqlite3")) as ledger:
        yield ledger


@pytest.mark.parametrize(
    ("outcome", "shown"),
    [
        (None, ""),
        ("sent", ""),
        ("rate", "; not confirmed: more than 200 confirmations per second"),
        ("\x1b[2J", "; not confirmed: \\x1b[2J"),
    ],
)
@pytest.mark.parametrize("is_closed", [False, True])
def test_it_says_why_a_knock_was_not_confirmed(
    ledger: Ledger, capsys: pytest.CaptureFixture[str], outcome: str | None, shown: str, is_closed: bool
) -> None:
    ledger.opened(opening())
    assert main(["log"]) == 0
    if is_closed:
        ledger.closed("ssh", HOME, 1004.0, "key ada")
        assert main(["log"]) == 0
    *_, plain = capsys.readouterr().out.splitlines()
    if outcome is not None:
        ledger.confirmed("ssh", HOME, outcome)
    assert main(["log"]) == 0
    assert capsys.readouterr().out == f"{plain}{shown}\n"
    assert main(["log", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["confirmation"] == outcome
