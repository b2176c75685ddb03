"""The errors that callers handle differently, by cause."""

from __future__ import annotations

from doorward.named_tuple import NamedTuple


class DoorwardError(Exception):
    """Base of every error that doorward raises on purpose; its text is a complete message for the operator."""

    exit_status = 2


class UsageError(DoorwardError):
    """The command line is wrong: an unknown door, an invalid address, an option out of range."""


class HostError(DoorwardError):
    """The host lacks something: a kernel feature, a library, a permission, disk space."""


class NegativeResult(DoorwardError):
    """The command worked and its result is negative, for example because the daemon is not running."""

    exit_status = 1


class MalformedError(DoorwardError):
    """Untrusted input is malformed."""


class ConfigFault(NamedTuple):
    """One fault in a file: place, fault and remedy."""

    file: str
    line: int
    what: str
    instead: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.what}; {self.instead}"


class ConfigError(DoorwardError):
    """An invalid configuration; `faults` holds every fault found, sorted by line."""

    def __init__(self, faults: list[ConfigFault]) -> None:
        self.faults = sorted(faults)
        super().__init__("\n".join(map(str, self.faults)))

    def __reduce__(self) -> tuple[type[ConfigError], tuple[list[ConfigFault]]]:
        return ConfigError, (self.faults,)
