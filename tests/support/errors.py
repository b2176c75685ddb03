"""Assertions on the codes of errors, whose wording is in tests/golden/messages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import pytest

from doorward.errors import DoorwardError, InvalidValueError

Coded = TypeVar("Coded", bound=DoorwardError | InvalidValueError)


@contextmanager
def raises(kind: type[Coded], code: str) -> Iterator[pytest.ExceptionInfo[Coded]]:
    """Expect an error of a kind with this code."""
    with pytest.raises(kind) as caught:
        yield caught
    assert caught.value.code == code, str(caught.value)
