"""The client's hosts.toml."""

from __future__ import annotations

from contextlib import suppress

from doorward.client.hosts import find_door, parse_hosts
from doorward.errors import UsageError


def one(data: bytes) -> None:
    """Read the hosts and their doors, and ask for one that is not there."""
    with suppress(UsageError):
        hosts = parse_hosts(data, "f")
        for name, host in hosts.items():
            assert host.address or not name
            for door, sequence in host.doors.items():
                assert sequence or host.server_key
                assert not sequence or find_door("f", hosts, name, door) == sequence
        find_door("f", hosts, "home", "no such door")
