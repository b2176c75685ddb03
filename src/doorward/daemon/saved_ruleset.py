"""The ruleset as last loaded, in a file: it is restored from there if another program removes it, and at boot.

It holds the doors' sequences, so only its owner may read it. It is replaced atomically.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from doorward.errors import HostError
from doorward.kernel import atomic_file

NAME, TRIAL_NAME = "gate.nft", "trial.nft"  # in the state directory
_HEADING = "# The gate as doorward last loaded it, without openings. doorward-gate.service loads it at boot.\n"


def prepare(path: Path, text: str) -> str:
    """Write the ruleset to be loaded next to `path`; return the fault, or "". A full disk does not prevent a load."""
    try:
        atomic_file.write(_beside(path), _HEADING + text)
    except OSError as error:
        discard(path)
        return f"{path}: {error.strerror}"
    return ""


def commit(path: Path) -> str:
    """Replace the saved ruleset by the prepared one; return the fault, or ""."""
    return replace_saved(_beside(path), path)


def discard(path: Path) -> None:
    """Remove a ruleset that was prepared and not loaded."""
    with suppress(OSError):
        _beside(path).unlink()


def replace_saved(source: Path, destination: Path) -> str:
    """Rename durably; return the fault, or ""."""
    try:
        atomic_file.rename(source, destination)
    except OSError as error:
        return f"{destination}: {error.strerror}"
    return ""


def read_saved(path: Path) -> str:
    """Return a saved ruleset. HostError: it cannot be read."""
    try:
        return atomic_file.read(path)
    except OSError as error:
        raise HostError(
            "ruleset-unreadable", f"{path}: the gate cannot be read back ({error.strerror}); let doorward read it"
        ) from None


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.new")
