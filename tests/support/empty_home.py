"""A user who has nothing: no keys, no agent, no hosts.toml."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def empty_ssh_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let the test run as that user; gives the folder of ssh's usual files."""
    for name in ("SSH_AUTH_SOCK", "SSH_ASKPASS", "SSH_ASKPASS_REQUIRE", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / ".config"))
    return home / ".ssh"
