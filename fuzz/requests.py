"""Lines that come by the control socket, up to what the daemon does; its filter is in memory."""

from __future__ import annotations

import atexit
import json
import os
from contextlib import ExitStack, closing
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from doorward.daemon.control_socket import parse_request
from doorward.daemon.event_stream import Subscriber
from doorward.daemon.ledger import Ledger
from doorward.daemon.log import Log
from doorward.errors import DoorwardError
from tests.support.in_process_daemon import InProcessDaemon


def one(data: bytes) -> None:
    """Answer each line; every answer is JSON, and what the filter holds is in the status, until the clock ends it."""
    daemon = _daemon()
    for opening in list(daemon.table):
        daemon.ask("close", opening.door, str(opening.address))
    for line in data.split(b"\n"):
        _answer(daemon, line)
    shown = json.loads(json.dumps(daemon.ask("status")))["openings"]
    entries = {(opening["address"], port) for opening in shown for port in opening["ports"]}
    assert entries >= {(str(element.address), str(element.port)) for element in daemon.firewall.elements()}


@cache
def _daemon() -> InProcessDaemon:
    """Make one for the life of this process: it has a child, which is too slow to start for every input."""
    parts = ExitStack()
    atexit.register(parts.close)
    ledger = Ledger(Path(parts.enter_context(TemporaryDirectory()), "ledger.sqlite3"))
    log = Log("text", parts.enter_context(Path(os.devnull).open("w")))  # noqa: SIM115 - closed with the other parts
    return parts.enter_context(closing(InProcessDaemon(ledger, log)))


def _answer(daemon: InProcessDaemon, line: bytes) -> None:
    try:
        # No open file comes with it, and nothing is cut: that would end connections of this machine.
        request = parse_request(line) | {"descriptor": None, "cut": False}
        answer = daemon.commands.answer(request)
        if isinstance(answer, Subscriber):  # it would be sent events until its connection ends
            answer.end()
        json.dumps(answer.first if isinstance(answer, Subscriber) else answer)
    except DoorwardError as error:
        json.dumps(str(error))
