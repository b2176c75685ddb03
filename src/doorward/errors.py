"""The errors that callers handle differently, by cause."""

from __future__ import annotations

from doorward.named_tuple import NamedTuple


class DoorwardError(Exception):
    """Base of every error that doorward raises on purpose.

    The text is a complete message for the operator; `code` names the fault for programs, and outlives the wording.
    """

    exit_status = 2

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code = code

    def __str__(self) -> str:
        return str(self.args[1])


class InvalidValueError(ValueError):
    """A text or value that a converter rejects, as `fault; remedy`; `code` as in DoorwardError."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code = code

    def __str__(self) -> str:
        return str(self.args[1])


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
    """One fault in a file: code, place, fault and remedy."""

    code: str
    file: str
    line: int
    what: str
    instead: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.what}; {self.instead}"


class ConfigError(DoorwardError):
    """An invalid configuration; `faults` holds every fault, sorted by line; `code` is the first one's."""

    def __init__(self, faults: list[ConfigFault]) -> None:
        self.faults = sorted(faults, key=lambda fault: fault[1:])
        super().__init__(self.faults[0].code, "\n".join(map(str, self.faults)))

    def __reduce__(self) -> tuple[type[ConfigError], tuple[list[ConfigFault]]]:
        return ConfigError, (self.faults,)
