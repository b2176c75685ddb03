"""Assertions on the codes of errors, whose wording is in tests/golden/messages."""

from __future__ import annotations

from typing import TypeVar

import pytest

from doorward.errors import DoorwardError, InvalidValueError

Coded = TypeVar("Coded", bound=DoorwardError | InvalidValueError)


def raises(kind: type[Coded], code: str) -> pytest.RaisesExc[Coded]:
    """Expect an error of a kind with this code."""
    return pytest.RaisesExc(kind, check=lambda error: error.code == code)
