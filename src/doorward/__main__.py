"""`python -m doorward`."""

import sys

from doorward.cli.main import main

sys.exit(main())
