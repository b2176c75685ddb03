"""Client tests never use the agent and the keys of the user who runs them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.empty_home import empty_ssh_directory as empty_ssh_directory


@pytest.fixture(autouse=True)
def _without_keys(empty_ssh_directory: Path) -> None:
    pass
