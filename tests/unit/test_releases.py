"""A release: one version everywhere, and a bill of materials that lists what is needed and what is contained."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from datetime import UTC, datetime
from pathlib import Path

from doorward import __version__

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_one_version() -> None:
    found = {
        "pyproject.toml": PROJECT["version"],
        **{
            name: re.findall(pattern, (ROOT / "packaging" / name).read_text(), re.MULTILINE)[0]
            for name, pattern in {"doorward.spec": r"^Version: +(.+)$", "PKGBUILD": r"^pkgver=(.+)$"}.items()
        },
    }
    assert set(found.values()) == {__version__}


def test_bill_of_materials() -> None:
    spec = importlib.util.spec_from_file_location("sbom", ROOT / "scripts" / "sbom.py")
    assert spec is not None
    assert spec.loader is not None
    sbom = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sbom)
    bill = sbom.bill(PROJECT, __version__, datetime(2026, 1, 1, tzinfo=UTC))
    assert bill["metadata"]["component"]["purl"] == f"pkg:pypi/doorward@{__version__}"
    assert bill["metadata"]["timestamp"] == "2026-01-01T00:00:00Z"
    *needed, contained = bill["components"]
    assert f"{contained['name']} {contained['version']} " in (ROOT / "src/doorward/page/qr.mjs").read_text()
    parts = {part["name"]: (part["scope"], part["properties"][0]["value"]) for part in needed}
    assert parts["cryptography"] == ("required", ">=38")
    assert parts["prometheus-client"][0] == "optional"
    assert len(parts) == len(PROJECT["dependencies"]) + len(PROJECT["optional-dependencies"])
    assert bill == sbom.bill(PROJECT, __version__, datetime(2026, 1, 1, tzinfo=UTC))
