"""The few errors that a caller treats differently, by who is at fault."""

from __future__ import annotations

from typing import NamedTuple


class DoorwardError(Exception):
    """Base of every error that doorward raises on purpose; its text is a whole message for the operator."""

    exit_status = 2


class UsageError(DoorwardError):
    """The call is wrong: an unknown door, an address that is none, an option out of range."""


class HostError(DoorwardError):
    """The host lacks something: a kernel feature, a library, a right, room on the disk."""


class NegativeResult(DoorwardError):
    """Everything was in order and the answer is no, for example because no daemon runs."""

    exit_status = 1


class MalformedError(DoorwardError):
    """Foreign bytes are not what they claim to be."""


class ConfigFault(NamedTuple):
    """One thing wrong in a file: where, what, and what to write instead."""

    file: str
    line: int
    what: str
    instead: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.what}; {self.instead}"


class ConfigError(DoorwardError):
    """A configuration that cannot be used; `faults` holds every fault found, in the order of the lines."""

    def __init__(self, faults: list[ConfigFault]) -> None:
        self.faults = sorted(faults)
        super().__init__("\n".join(map(str, self.faults)))

    def __reduce__(self) -> tuple[type[ConfigError], tuple[list[ConfigFault]]]:
        return ConfigError, (self.faults,)
