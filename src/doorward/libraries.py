"""Optional Python libraries."""

from __future__ import annotations

import sys

# The first one present names the distribution's package of a library.
_PACKAGES = {
    "apt": "apt install python3-{}",
    "dnf": "dnf install python3-{}",
    "zypper": "zypper install python3-{}",
    "pacman": "pacman -S python-{}",
    "apk": "apk add py3-{}",
}


def install_command(library: str) -> str:
    """Return the command that installs a library for the Python interpreter that runs doorward.

    The distribution's own interpreter gets the distribution's package, any other one a package of PyPI.
    """
    import shlex  # most commands never call this
    import shutil

    if sys.prefix == "/usr":
        for program, command in _PACKAGES.items():
            if shutil.which(program):
                return command.format(library.replace("_", "-"))
    return f"{shlex.quote(sys.executable or 'python3')} -m pip install {library}"
