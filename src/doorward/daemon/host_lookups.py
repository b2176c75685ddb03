"""Facts about this host that `doorward check` compares a configuration with; nothing is changed."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

from doorward.config.schema import Configuration
from doorward.daemon.control_client import ask, default_path
from doorward.errors import HostError, NegativeResult, UsageError
from doorward.kernel import privileges
from doorward.kernel.child_process import run_in_child
from doorward.kernel.sock_diag import listeners
from doorward.lint.host_checks import HostFacts, hooks
from doorward.model import Port

UNIT_FOLDERS = ("/etc/systemd/system", "/run/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system")
_UNIT = "doorward.service"


def look(configuration: Configuration) -> HostFacts:
    """Return the host's interfaces, the faults of the programs that hooks run, and the signed ports in use."""
    programs = {hook.words[0] for hook in hooks(configuration)}
    interfaces = frozenset(name for _, name in socket.if_nameindex())
    bound = _bound_ports(configuration.signed_ports)
    return HostFacts(interfaces, {program: _trouble(program) for program in programs}, bound)


def _bound_ports(ports: Sequence[Port]) -> frozenset[Port]:
    """Return the ports to which other programs than the daemon are bound, as far as this user may know."""
    if not ports:
        return frozenset()
    try:
        bound = frozenset(listener.port for listener in listeners(loopback=True)).intersection(ports)
        signed = ask(default_path(), {"command": "status"})["signed"] if bound else None
        held = [] if signed is None else signed["confirmations"]["ports"]
    except NegativeResult:  # no daemon runs
        return bound
    except (HostError, UsageError):
        return frozenset()
    return bound - set(map(Port.parse, held))


def _trouble(program: str) -> str:
    """Return what is wrong with a program, or "", also if this user may not look."""
    if "/" not in program:
        return "" if shutil.which(program) else "is in no directory of PATH"
    try:
        Path(program).stat()
    except PermissionError:
        return ""
    except OSError:
        return "does not exist"
    return "" if Path(program).is_file() and os.access(program, os.X_OK) else "is not an executable file"


def runs_as_unit() -> bool:
    """Return whether the host has the unit, which starts the daemon as its own user, without root's rights."""
    return any(Path(directory, _UNIT).exists() for directory in UNIT_FOLDERS)


def unreadable(paths: list[Path]) -> tuple[str, list[Path]]:
    """Return the daemon's user and the files that it cannot read, if root asks and there is such a user."""
    identity = privileges.service_identity()
    if identity is None:
        return "", []

    def look_as_user() -> Iterator[Path]:
        privileges.drop_privileges(identity, 0)
        yield from (path for path in there if not os.access(path, os.R_OK))

    there = [path for path in paths if path.exists()]
    try:
        return identity.name, run_in_child(lambda: list(look_as_user()))
    except HostError:  # a sandbox in which root cannot switch users
        return "", []
