"""How much tests of chance and exploration do: DOORWARD_EFFORT, 1 by default; `scripts/soak` sets it to 10."""

from __future__ import annotations

import os

EFFORT = max(1, int(os.environ.get("DOORWARD_EFFORT", "1")))
