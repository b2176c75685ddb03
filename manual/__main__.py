"""`python -m manual FOLDER`: writes the manual pages, and the shells' completions, as they stand below share/."""

from __future__ import annotations

import sys
from pathlib import Path

from manual.share import write

write(Path(sys.argv[1]))
