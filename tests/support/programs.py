"""Debian's own programs, by their whole paths: doorward installs a `knock` and a `knockd` too."""

KNOCK = "/usr/bin/knock"
KNOCKD = "/usr/sbin/knockd"
