"""The open sets as nft lists them."""

from __future__ import annotations

from contextlib import suppress

from doorward.errors import HostError
from doorward.gate.nft import read_elements


def one(data: bytes) -> None:
    """Read the sets: ports that exist, and times that are none of the past."""
    with suppress(HostError):
        for element, left_s in read_elements(data.decode(errors="replace")).items():
            assert 1 <= element.port.number <= 65535
            assert left_s >= 0
