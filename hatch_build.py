"""Write the manual pages, the shell completions and the units to build/share, which becomes share/ in the wheel."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


def compile_shield(directory: Path, *more: str) -> bool:
    """Compile the objects of the shield where clang and libbpf's headers are; return whether they were compiled.

    `more`: options of the tests, for which a warning is an error. A later clang may warn of more, at an installation.
    """
    clang, strip = shutil.which("clang"), shutil.which("llvm-strip")
    if clang is None:
        return False
    options = ["-O2", "-g", "-target", "bpfel", "-mcpu=v3", "-Wall", "-Wextra", *more]
    options += ["-fdebug-compilation-dir=."]  # and relative names: the same object wherever it is built
    for source in sorted(directory.glob("*.bpf.c")):
        made = directory / f"{source.stem}.{os.getpid()}"
        process = subprocess.run([clang, *options, "-c", source.name, "-o", made.name], cwd=directory, check=False)
        if process.returncode:
            return False
        if strip is not None:
            subprocess.run([strip, "-g", made], check=False)  # only smaller: DWARF; the kernel reads BTF
        made.rename(source.with_suffix(".o"))  # tests run side by side
    return True


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
        shield = root / "src" / "doorward" / "shield"
        if not compile_shield(shield):
            for made in shield.glob("*.bpf.o"):  # of an earlier build, and perhaps of another version
                made.unlink()
        sys.path[:0] = [str(root / "src"), str(root)]
        from manual.share import write

        write(share)
        shutil.copytree(root / "systemd", share / "doorward" / "systemd")
