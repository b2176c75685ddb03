"""`python -m manual DIRECTORY`: writes the manual pages, and the shells' completions, with their paths below share/.

`python -m manual --markdown docs/reference` writes the pages of the reference that are made from the program.
"""

from __future__ import annotations

import sys
from pathlib import Path

from manual import reference, share

if sys.argv[1] == "--markdown":
    reference.write(Path(sys.argv[2]))
else:
    share.write(Path(sys.argv[1]))
