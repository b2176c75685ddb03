"""What the loader reports to the daemon, which checks it. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import NamedTuple

from doorward.errors import MalformedError
from doorward.escape import printable

REPORT_BYTES = 1 << 16
MAX_ATTACHED = 200  # interfaces: as many fit in the set in nftables, and their names in a report
INTERFACE = re.compile(r"[A-Za-z0-9._@+-]{1,15}")  # a name in a command for nft; the kernel allows more
COUNTERS = ("dropped", "knocked", "throttled", "no_room", "evicted", "raced")  # as in config.h
_TROUBLE_LENGTH = 500


class ShieldReport(NamedTuple):
    """Where the shield is attached, what it counted, and why it is not loaded or not attached, or "".

    `at_xdp`: interfaces that have it at XDP too; `no_xdp`: why others have not, though they should, or "".
    """

    interfaces: tuple[str, ...] = ()
    counters: Mapping[str, int] = {}
    trouble: str = ""
    at_xdp: tuple[str, ...] = ()
    no_xdp: str = ""

    def pack(self) -> bytes:
        """Return the message."""
        texts = {name: printable(getattr(self, name), _TROUBLE_LENGTH) for name in ("trouble", "no_xdp")}
        return json.dumps(self._asdict() | texts).encode()


def parse_report(raw: bytes) -> ShieldReport:
    """Parse the message. MalformedError: it is anything else."""
    try:
        found = json.loads(raw)
        names, at_xdp, counters = tuple(found["interfaces"]), tuple(found["at_xdp"]), dict(found["counters"])
        texts = found["trouble"], found["no_xdp"]
        if not (
            len(names) <= MAX_ATTACHED
            and all(map(INTERFACE.fullmatch, names))
            and {*at_xdp} <= {*names}
            and (counters.keys() == {*COUNTERS} or not counters)
            and all(type(count) is int and 0 <= count < 1 << 64 for count in counters.values())
            and all(isinstance(text, str) and text == printable(text, _TROUBLE_LENGTH) for text in texts)
        ):
            raise ValueError("a name, counter or text is invalid")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise MalformedError("shield-report", f"its process sent an invalid report: {error}") from None
    return ShieldReport(names, counters, texts[0], at_xdp, texts[1])
