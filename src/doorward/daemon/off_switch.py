"""The off switch: a file that only root makes. While it exists, nothing of doorward loads a gate.

It is in the configuration's directory, which root owns, so that it outlives restarts and reboots and the
daemon's own user cannot make or remove it.
"""

from __future__ import annotations

from pathlib import Path

from doorward.config.files import default_path
from doorward.errors import NegativeResult

NAME = "off"  # the units name it too (systemd/)
_TEXT = "doorward is switched off: no gate is loaded while this file exists. `doorward on` removes it.\n"


class SwitchedOff(NegativeResult):
    """Nothing was loaded because doorward is switched off."""


def marker() -> Path:
    """Return the path of the file."""
    return default_path().with_name(NAME)


def off_since_s() -> float | None:
    """Return when doorward was switched off, in seconds since the epoch; None while it is on."""
    try:
        return marker().lstat().st_mtime
    except OSError:  # no such file; or this user may not look there, and then root's command has asked the daemon
        return None


def is_off() -> bool:
    """Return whether doorward is switched off."""
    return off_since_s() is not None


def refuse_if_off() -> None:
    """Raise SwitchedOff while doorward is switched off."""
    if is_off():
        raise SwitchedOff("switched-off", f"doorward is switched off ({marker()}); `doorward on` ends that")


def switch_off() -> None:
    """Create the file durably; an existing one keeps its time. OSError: it cannot be created."""
    from doorward.kernel import atomic_file  # needed for the switch only, and every command looks at it

    if not is_off():
        atomic_file.make_directories(marker().parent, 0o755)
        atomic_file.write(marker(), _TEXT)
    atomic_file.sync(marker().parent)


def switch_on() -> None:
    """Remove the file durably. FileNotFoundError: doorward is on; OSError: it cannot be removed."""
    from doorward.kernel import atomic_file

    marker().unlink()
    atomic_file.sync(marker().parent)
