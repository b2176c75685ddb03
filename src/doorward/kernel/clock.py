"""Whether the system clock is synchronized (adjtimex(2))."""

from __future__ import annotations

import ctypes

_TIMEX_BYTES = 512  # struct timex has 208, or fewer; zeros: change nothing
_TIME_ERROR = 5  # the clock is not synchronized


def is_synchronized() -> bool | None:
    """Return whether a time service keeps the clock right; None if the kernel does not say."""
    try:
        state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    except (OSError, AttributeError, TypeError):  # macOS and Windows have no such call
        return None
    return None if state < 0 else bool(state != _TIME_ERROR)
