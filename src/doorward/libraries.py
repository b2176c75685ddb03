"""Python libraries that doorward uses only where they are installed."""

from __future__ import annotations

import shlex
import sys


def install_command(library: str) -> str:
    """Return the command that installs a library for the Python that runs this doorward, however that was installed."""
    return f"{shlex.quote(sys.executable or 'python3')} -m pip install {library}"
