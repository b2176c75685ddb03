"""SSH_CONNECTION, which the caller of a command may set to anything."""

from __future__ import annotations

from doorward.kernel.ssh_session import parse


def one(data: bytes) -> None:
    """Read a value of the variable; a connection is two addresses of use to the kernel, with ports."""
    found = parse(data.decode(errors="surrogateescape"))
    if found is not None:
        assert 0 < found.source_port < 65536
        assert 0 < found.destination_port < 65536
        assert parse(f"{found.source} {found.source_port} {found.destination} {found.destination_port}") == found
