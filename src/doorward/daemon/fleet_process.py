"""The fleet process: its start, and the daemon's side of it."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

from doorward.config.schema import Fleet
from doorward.errors import DoorwardError, MalformedError
from doorward.escape import printable
from doorward.fleet import protocol
from doorward.kernel import privileges
from doorward.kernel.child_process import STANDARD, Worker, close_descriptors_except


class FleetProcess(Worker):
    """The process that speaks to etcd."""

    def __init__(self, fleet: Fleet, gate: str, window_ms: int, directory: Path, state: Path) -> None:
        identity = _identity(state)
        super().__init__(
            "doorward-fleet", lambda daemon: _speak(daemon, identity, fleet, gate, window_ms, directory, state)
        )

    def read(self) -> protocol.Message | None:
        """Return the next message, or None. MalformedError: the process ended, or sent an invalid message."""
        raw = self.receive(protocol.MESSAGE_BYTES)
        if raw == b"":
            raise MalformedError("process-ended", "the process ended")
        return None if raw is None else protocol.parse(raw)


def _identity(state: Path) -> privileges.Identity | None:
    """Return the user to switch to; None if that user cannot write `state`: then only capabilities are dropped."""
    identity = privileges.service_identity()
    return identity if identity is not None and state.stat().st_uid == identity.user else None


def _speak(
    daemon: socket.socket,
    identity: privileges.Identity | None,
    fleet: Fleet,
    gate: str,
    window_ms: int,
    directory: Path,
    state: Path,
) -> None:
    close_descriptors_except([daemon.fileno(), *STANDARD])
    from doorward.fleet.etcd import claim_access, read_access
    from doorward.fleet.worker import FleetWorker, WorkerSettings

    try:
        access = read_access(fleet, directory, gate)
        privileges.drop_privileges(identity, 0)
        privileges.exit_with_parent(signal.SIGKILL)
        claims = claim_access(access, fleet)
        process = FleetWorker(WorkerSettings(fleet.name, gate, access, claims, window_ms, state), daemon)
    except (DoorwardError, OSError) as error:
        code = error.code if isinstance(error, DoorwardError) else "fleet-start-failed"
        daemon.send(protocol.pack(protocol.LogMessage(code, "error", printable(str(error), protocol.MAX_LINE_LENGTH))))
    else:
        process.run()
