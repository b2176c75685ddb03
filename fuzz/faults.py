"""What holds of every fault that a configuration's parser tells of."""

from __future__ import annotations

from doorward.errors import ConfigError


def check(error: ConfigError, data: bytes) -> None:
    """Each has a line of the file, says what is wrong and what to write instead, and is one line itself."""
    for fault in error.faults:
        assert 1 <= fault.line <= data.count(b"\n") + 1, fault
        assert fault.what, fault
        assert fault.instead, fault
        assert "\n" not in str(fault), fault


def check_message(error: Exception) -> None:
    """Make sure that an error for the operator is one printable line."""
    assert str(error)
    assert str(error).isprintable(), error
