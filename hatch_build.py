"""Write the manual pages, the shell completions and the units to build/share, which becomes share/ in the wheel."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Share(BuildHookInterface[Any]):
    """Generates the files that pyproject.toml lists as `shared-data`; an editable wheel has none."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002
        """Write the files, in place of those of an earlier build."""
        root = Path(self.root)
        share = root / "build" / "share"  # ignored by git
        shutil.rmtree(share, ignore_errors=True)
        share.mkdir(parents=True)
        if version == "editable":
            return
        sys.path[:0] = [str(root / "src"), str(root)]
        from manual.share import write

        write(share)
        shutil.copytree(root / "systemd", share / "doorward" / "systemd")
