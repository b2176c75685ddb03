"""Puts the manual pages, the shells' completions and the units into the wheel; an editable one goes without."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Share(BuildHookInterface[Any]):
    """Makes what stands below share/ where the wheel is installed."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Make the files, and tell hatchling of them."""
        if version == "editable":
            return
        root = Path(self.root)
        sys.path[:0] = [str(root / "src"), str(root)]
        from manual.share import write

        directory = root / "build" / "share"  # git knows to ignore it
        data = {str(directory / path): f"share/{path}" for path in write(directory)}
        units = {str(path): f"share/doorward/systemd/{path.name}" for path in (root / "systemd").iterdir()}
        build_data["shared_data"].update(data | units)
