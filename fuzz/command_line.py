"""Words of the command line: ports, times, flags, and the options of `knock`."""

from __future__ import annotations

import os
from contextlib import suppress

from doorward.cli import knockd_client
from doorward.config.duration import format_duration, parse_duration_ms
from doorward.model import FlagFilter, Port


def one(data: bytes) -> None:
    """Read words with a NUL between, as a program gets them."""
    words = [os.fsdecode(word) for word in data.split(b"\0")]
    for word in words:
        with suppress(ValueError):
            assert Port.parse(str(Port.parse(word))) == Port.parse(word)
        with suppress(ValueError):
            assert parse_duration_ms(format_duration(parse_duration_ms(word))) == parse_duration_ms(word)
    with suppress(ValueError):
        assert FlagFilter.parse(tuple(words)).value & ~FlagFilter.parse(tuple(words)).mask == 0
    with suppress(knockd_client.ExitRequest):
        call = knockd_client.parse_arguments("knock", words)
        assert call.delay_ms is None or 0 <= call.delay_ms <= knockd_client.LONGEST_DELAY_MS
        assert all(1 <= knockd_client.parse_port(call, word).number <= 65535 for word in call.words)
