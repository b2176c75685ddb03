"""What the tests of packages share."""

from tests.support.debian_packages import built as built
from tests.support.debian_packages import earlier as earlier
