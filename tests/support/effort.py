"""How much a test that can go on for as long as one likes should do: the variable DOORWARD_EFFORT, 1 by default."""

from __future__ import annotations

import os

EFFORT = max(1, int(os.environ.get("DOORWARD_EFFORT", "1")))
