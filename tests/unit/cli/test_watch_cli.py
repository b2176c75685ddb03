"""`doorward watch` where the library of the live view is missing or old."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError

import pytest

from doorward.cli import watch


@pytest.mark.parametrize(
    ("version", "is_enough"), [("0.1.13", False), ("2.1.2", False), ("8.2.8", True), ("10.0", True)]
)
def test_an_old_textual_does_not_do(version: str, is_enough: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "version", lambda _: version)
    assert watch._has_textual() is is_enough


def test_missing_textual_is_not_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(watch, "version", missing)
    assert not watch._has_textual()
