"""The daemon's side of the process that speaks to etcd, and that process's beginning."""

from __future__ import annotations

import os
import signal
import socket
from contextlib import suppress
from pathlib import Path

from doorward.config.schema import Fleet
from doorward.errors import DoorwardError, MalformedError
from doorward.fleet import protocol
from doorward.fleet.etcd_records import printable
from doorward.kernel import privileges
from doorward.kernel.child_process import STANDARD, child_main, close_descriptors_except, recv


class FleetProcess:
    """One such process; it ends with `close`, or with what `read` raises."""

    def __init__(self, fleet: Fleet, gate: str, window_ms: int, folder: Path, state: Path) -> None:
        identity = _identity(state)
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.pid = os.fork()
        if self.pid == 0:
            child_main("doorward-fleet", lambda: _speak(theirs, identity, fleet, gate, window_ms, folder, state))
        theirs.close()

    def fileno(self) -> int:
        """Give the descriptor to wait on."""
        return self.socket.fileno()

    def read(self) -> protocol.Message | None:
        """Give a message, or None where there is none. MalformedError: it ended, or sends what is none."""
        try:
            raw = recv(self.socket, protocol.MESSAGE_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        if not raw:
            raise MalformedError("the process ended")
        return protocol.parse(raw)

    def close(self) -> None:
        """End it."""
        self.socket.close()
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def _identity(state: Path) -> privileges.Identity | None:
    """Give the user to go over to; None where that user could not keep what it learns: then only capabilities go."""
    identity = privileges.service_identity()
    return identity if identity is not None and state.stat().st_uid == identity.user else None


def _speak(
    daemon: socket.socket,
    identity: privileges.Identity | None,
    fleet: Fleet,
    gate: str,
    window_ms: int,
    folder: Path,
    state: Path,
) -> None:
    close_descriptors_except([daemon.fileno(), *STANDARD])
    from doorward.fleet.etcd import claim_access, read_access
    from doorward.fleet.worker import FleetWorker, WorkerSettings

    try:
        access = read_access(fleet, folder, gate)
        privileges.drop_privileges(identity, 0)
        privileges.exit_with_parent(signal.SIGKILL)
        claims = claim_access(access, fleet)
        process = FleetWorker(WorkerSettings(fleet.name, gate, access, claims, window_ms, state), daemon)
    except (DoorwardError, OSError) as error:
        daemon.send(protocol.pack(protocol.Say("error", printable(str(error), protocol.MAX_LINE_LENGTH))))
    else:
        process.run()
