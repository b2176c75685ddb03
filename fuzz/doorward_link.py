"""doorward:// links, as they come by mail or from a camera."""

from __future__ import annotations

from contextlib import suppress

from doorward.client.link_uri import MAX_DOORS, format_link, parse_link
from doorward.errors import MalformedError


def one(data: bytes) -> None:
    """Read a link; what was read is written, and read again as the same."""
    with suppress(MalformedError):
        link = parse_link(data.decode(errors="surrogateescape"))
        assert link.key or any(sequence for _, sequence in link.doors)
        assert len(link.doors) <= MAX_DOORS
        assert link.host.isprintable()
        assert parse_link(format_link(link)) == link
