"""Who may knock: the operator's own SSH keys, as far as signed knocks take them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from doorward.config.files import read_text
from doorward.errors import DoorwardError, Fault, UsageError
from doorward.signed import authorized

HEAD = "# Who may knock, a public key a line: docs/signed-knocks.md.\n"


class Found(NamedTuple):
    """Lines of a file that may be copied, and what is wrong with the others."""

    path: Path
    lines: tuple[str, ...]
    faults: tuple[Fault, ...]

    @property
    def text(self) -> str:
        """The file of those who may knock."""
        return f"{HEAD}# Copied by `doorward init` from {self.path}.\n" + "".join(f"{line}\n" for line in self.lines)


def read_keys(path: Path) -> Found:
    """Read a file of keys. UsageError, ConfigError: it is missing, or others can write it."""
    if not path.is_file():
        raise UsageError(f"{path}: there is no such file; name one with public keys of SSH, a line each")
    text = read_text(path)
    keys, faults = authorized.parse(text, str(path))
    lines = text.split("\n")
    return Found(path, tuple(lines[line.number - 1].strip() for line in keys.lines), tuple(faults))


def first_keys(paths: Iterable[Path]) -> Found | None:
    """Give the first file that has a key; those that are missing or cannot be taken are passed over."""
    for path in paths:
        try:
            found = read_keys(path)
        except (DoorwardError, OSError):
            continue
        if found.lines:
            return found
    return None
