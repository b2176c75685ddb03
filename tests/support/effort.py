"""How often tests repeat what depends on chance: `scripts/soak` sets DOORWARD_EFFORT to 10."""

import os

EFFORT = int(os.environ.get("DOORWARD_EFFORT", "1"))
