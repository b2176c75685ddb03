"""What the tests of packages share."""

from tests.support.debian_packages import built as built
