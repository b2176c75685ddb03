"""The shield's objects, compiled where clang is, and DOORWARD_SHIELD=on, which adds the shield to tests of a daemon."""

from __future__ import annotations

import os
import platform
import re
from functools import cache
from pathlib import Path
from typing import NoReturn

import pytest

from doorward.shield import libbpf
from tests.conftest import unavailable

SOURCES = Path(libbpf.__file__).parent
OLDEST = 6, 1  # the first kernel that it is tested on
_ADDED = 'mode = "stealth"\nshield = "on" # by DOORWARD_SHIELD'


@cache
def compiled() -> None:
    """Compile the objects as the package build does; skip the test where that is not possible."""
    try:
        from hatch_build import compile_shield
    except ImportError:
        unavailable("hatchling is not installed")
    if not compile_shield(SOURCES, "-Werror"):
        unavailable("clang or libbpf-dev is not installed")


def added(config_text: str) -> str:
    """Return a configuration with the shield on, where DOORWARD_SHIELD=on wants it and the configuration permits it."""
    permits = 'mode = "stealth"' in config_text and "knock = " in config_text and "shield" not in config_text
    if os.environ.get("DOORWARD_SHIELD") != "on" or not permits:
        return config_text
    compiled()
    return config_text.replace('mode = "stealth"', _ADDED)


def is_added(config: Path) -> bool:
    """Return whether a file has what `added` adds."""
    return config.exists() and _ADDED in config.read_text()


def cannot_load(reason: str) -> NoReturn:
    """Skip this test on kernels that the shield is not for; on others it loads."""
    version = tuple(map(int, re.findall(r"\d+", platform.release())[:2]))
    (unavailable if version >= OLDEST else pytest.skip)(reason)
