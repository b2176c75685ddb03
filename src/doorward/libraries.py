"""Optional Python libraries."""

from __future__ import annotations

import shlex
import sys


def install_command(library: str) -> str:
    """Return the command that installs a library for the Python interpreter that runs doorward."""
    return f"{shlex.quote(sys.executable or 'python3')} -m pip install {library}"
