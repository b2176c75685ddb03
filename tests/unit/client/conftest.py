"""Client tests never use the agent and the keys of the user who runs them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.nobody import nobodys_keys as nobodys_keys


@pytest.fixture(autouse=True)
def _without_keys(nobodys_keys: Path) -> None:
    pass
