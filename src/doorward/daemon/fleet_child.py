"""The daemon's side of the process that speaks to etcd, and that process's beginning."""

from __future__ import annotations

import os
import signal
import socket
from contextlib import suppress
from pathlib import Path

from doorward.config.schema import Fleet
from doorward.daemon import privileges
from doorward.daemon.apart import STANDARD, keep_only, received, serve
from doorward.errors import DoorwardError, MalformedError
from doorward.fleet import talk
from doorward.fleet.records import fit


class Child:
    """One such process; it ends with `close`, or with what `read` raises."""

    def __init__(self, fleet: Fleet, gate: str, window_ms: int, folder: Path, state: Path) -> None:
        identity = _identity(state)
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.pid = os.fork()
        if self.pid == 0:
            serve("doorward-fleet", lambda: _speak(theirs, identity, fleet, gate, window_ms, folder, state))
        theirs.close()

    def fileno(self) -> int:
        """Give the descriptor to wait on."""
        return self.socket.fileno()

    def read(self) -> talk.Message | None:
        """Give a message, or None where there is none. MalformedError: it ended, or sends what is none."""
        try:
            raw = received(self.socket, talk.MESSAGE_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        if not raw:
            raise MalformedError("the process ended")
        return talk.parse(raw)

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
    keep_only([daemon.fileno(), *STANDARD])
    from doorward.daemon.fleet_files import for_claims, read_access
    from doorward.fleet.process import Process, Settings

    try:
        access = read_access(fleet, folder, gate)
        privileges.give_up(identity, 0)
        privileges.end_with_parent(signal.SIGKILL)
        claims = for_claims(access, fleet)
        process = Process(Settings(fleet.name, gate, access, claims, window_ms, state), daemon)
    except (DoorwardError, OSError) as error:
        daemon.send(talk.pack(talk.Say("error", fit(str(error), talk.LONGEST_WORDS))))
    else:
        process.run()
