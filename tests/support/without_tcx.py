"""A daemon whose shield attaches as before Linux 6.6: `python -m tests.support.without_tcx python -m doorward …`."""

from __future__ import annotations

import sys

from doorward.cli.main import main
from doorward.shield import attachment

if __name__ == "__main__":
    attachment.has_tcx = lambda: False
    sys.exit(main(sys.argv[4:]))  # after the interpreter, -m, doorward
