"""The gate's text as it was last loaded, in a file: put back from it where another program removes it, and at boot.

It holds the doors' sequences, so only its owner may read it. It is whole or not there: written beside, then renamed.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from doorward.errors import HostError
from doorward.kernel import atomic_file

NAME, TRIAL_NAME = "gate.nft", "trial.nft"  # in the state folder
_HEADING = "# The gate as doorward last loaded it, without openings. doorward-gate.service loads it at boot.\n"


def prepare(path: Path, text: str) -> str:
    """Write beside `path` what is about to be loaded; give what is wrong, or nothing. A full disk hinders no load."""
    try:
        atomic_file.write(_beside(path), _HEADING + text)
    except OSError as error:
        discard(path)
        return f"{path}: {error.strerror}"
    return ""


def commit(path: Path) -> str:
    """Let what was prepared take its place; give what is wrong, or nothing."""
    return replace_saved(_beside(path), path)


def discard(path: Path) -> None:
    """Take away what was prepared and not loaded."""
    with suppress(OSError):
        _beside(path).unlink()


def replace_saved(source: Path, destination: Path) -> str:
    """Rename for good: also after a loss of power. Gives what is wrong, or nothing."""
    try:
        atomic_file.rename(source, destination)
    except OSError as error:
        return f"{destination}: {error.strerror}"
    return ""


def read_saved(path: Path) -> str:
    """Read a kept gate; HostError where there is none."""
    try:
        return atomic_file.read(path)
    except OSError as error:
        raise HostError(f"{path}: the gate cannot be read back ({error.strerror}); let doorward read it") from None


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.new")
