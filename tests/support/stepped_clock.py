"""A wall clock that a test can step, for one daemon: `python -m tests.support.stepped_clock FILE python -m doorward …`.

FILE holds the step in seconds, a double. Only what `time.time()` gives is changed; the machine's own clock, which other
programs use, is left alone.
"""

from __future__ import annotations

import mmap
import struct
import sys
import time
from pathlib import Path

from doorward.cli.main import main

STEP = struct.Struct("d")


def step_to(path: Path, seconds: float) -> None:
    """Have the clock be so many seconds ahead from now on."""
    with path.open("r+b" if path.exists() else "w+b") as file:
        file.write(STEP.pack(seconds))


def _run(path: str, words: list[str]) -> int:
    with Path(path).open("r+b") as file:
        step = mmap.mmap(file.fileno(), STEP.size)
    real = time.time
    time.time = lambda: real() + STEP.unpack_from(step)[0]
    return main(words)


if __name__ == "__main__":
    sys.exit(_run(sys.argv[1], sys.argv[5:]))  # after FILE: the interpreter, -m, doorward
