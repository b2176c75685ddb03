"""The split of the Debian packages: what a package imports is in it, or in one that it depends on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.test_architecture import FILES, SOURCE, imports, module_name

DEBIAN = Path(__file__).parents[2] / "debian"
LIBRARY = "usr/lib/python3*/dist-packages/doorward/"
NAMES = {module_name(path): path for path in FILES}


def listed(package: str) -> set[Path]:
    """Return the modules that a package lists, by file or by directory."""
    lines = (DEBIAN / f"{package}.install").read_text().splitlines()
    places = [SOURCE / line.removeprefix(LIBRARY) for line in lines if line.startswith(LIBRARY)]
    assert [place for place in places if not place.exists()] == []
    return {path for path in FILES if any(place in (path, *path.parents) for place in places)}


def imported(paths: set[Path]) -> set[Path]:
    """Return the modules that these import; names under TYPE_CHECKING count too."""
    return {NAMES[name] for path in paths for name in imports(path) if name in NAMES}


def test_the_client_is_complete() -> None:
    client = listed("doorward-client")
    assert imported(client) - client == set()


@pytest.mark.parametrize("module", ["knockd", "knockd_client"])
def test_the_daemon_does_not_need_knockd(module: str) -> None:
    knockd, daemon = listed("doorward-knockd"), set(FILES) - listed("doorward-knockd")
    assert SOURCE / "cli" / f"{module}.py" in knockd
    assert imported(daemon) & knockd == set()
