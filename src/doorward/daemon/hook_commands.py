"""Hook commands by door, address family and event. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from doorward.config.schema import ADDRESS_PLACEHOLDER, REASON_PLACEHOLDER
from doorward.model import Source, source_text

Command = str | tuple[str, ...]  # text for a shell, as in knockd; or a command and its arguments
REFUSALS = ""  # instead of a door's name: the key of `on_refuse`


class DoorCommands(NamedTuple):
    """A door's commands on opening and closing, for IPv4 and IPv6. None: no command."""

    open4: Command | None = None
    open6: Command | None = None
    close4: Command | None = None
    close6: Command | None = None

    def of(self, what: str, address: Source) -> Command | None:
        """Return the command for "open" or "close" and this address."""
        if what == "open":
            return self.open4 if address.version == 4 else self.open6
        return self.close4 if address.version == 4 else self.close6


Commands = Mapping[str, DoorCommands]


def filled(command: Command, address: Source, reason: str = "") -> Command:
    """Replace each %IP% by the address, and each %REASON% by the reason of a rejection."""
    if isinstance(command, str):
        return command.replace(ADDRESS_PLACEHOLDER, source_text(address))
    words = (word.replace(ADDRESS_PLACEHOLDER, source_text(address)) for word in command)
    return tuple(word.replace(REASON_PLACEHOLDER, reason) if reason else word for word in words)


def argv_of(command: Command) -> Sequence[str]:
    """Return the argument list to execute; text is run by the shell."""
    return ("/bin/sh", "-c", command) if isinstance(command, str) else command


def text_of(command: Command) -> str:
    """Return a command as the log shows it."""
    return command if isinstance(command, str) else " ".join(command)
