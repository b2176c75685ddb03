"""A daemon and a ledger that were taken over: each text in them would command the terminal that shows it."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from doorward.daemon.ledger import Ledger
from doorward.model import Opening
from tests.support.openings import opening

SPOOF = "2026-05-01 12:00:00  opened   192.0.2.66"
POISON = f"x\x1b]0;owned\x07\n{SPOOF}\r\x7f\x9b31m\u202e"
NOW_S = time.time()
_OPENING = {"door": POISON, "address": POISON, "ports": [POISON], "since": NOW_S, "until": NOW_S + 60, "by": POISON}
STATUS: dict[str, Any] = {
    "doorward_version": POISON,
    "uptime_s": 1.0,
    "pid": 1,
    "summary": POISON,
    "generation": POISON,
    "openings": [_OPENING],
    "counters": {},
    "log_overflows": 0,
    "ledger_trouble": POISON,
    "config": POISON,
    "trial": None,
    "last_good": POISON,
    "gate_trouble": POISON,
    "doors": [{"name": POISON, "ports": [POISON], "for_s": 5.0, "sequence": True}],
    "door_count": 1,
    "signed": {
        "takes": True,
        "ports": [POISON],
        "authorized_keys": POISON,
        "browser": False,
        "refused": {POISON: 3},
        "confirmations": {"is_on": True, "ports": [POISON], "not_open": {POISON: POISON}, "counts": {POISON: 1}},
        "fwknop": [{"stanza": POISON, "fwknop": 1.0, "signed": 2.0, "takes": False}],
    },
    "banned": 0,
    "fleet": {
        "name": POISON,
        "is_in_touch": True,
        "openings": 1,
        "owed": 0,
        "without_answer": {POISON: 1},
        "rejected": {},
    },
}
_STAMP = "2026-05-01T10:00:00.000+00:00"
EVENTS: list[dict[str, Any]] = [
    {"time": _STAMP, "event": "opened", "door": POISON, "address": POISON, "ports": [POISON], "for_s": 5, "by": POISON},
    {"time": _STAMP, "event": "refused", "door": POISON, "address": POISON, "reason": POISON},
    {"time": _STAMP, "event": "message", "level": "error", "message": POISON},
]
ANSWERS: dict[str, Any] = {
    "status": STATUS,
    "follow": STATUS,
    "open": {"opening": _OPENING},
    "close": {"error": POISON, "exit_status": 1},
    "ban": {"ban": POISON, "for": 60.0, "closed": 1, "cut": 0},
    "unban": {"ban": POISON},
    "bans": {"bans": [[POISON, NOW_S + 60]]},
}


@contextmanager
def poisoned_daemon(path: Path) -> Iterator[None]:
    """Answer on a control socket, until the end of the block, whatever is asked."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    server = threading.Thread(target=_serve, args=(listener,))
    server.start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        server.join()
        listener.close()


def _serve(listener: socket.socket) -> None:
    with suppress(OSError):
        while True:
            client = listener.accept()[0]
            with client, client.makefile("rwb") as lines, suppress(OSError):
                command = json.loads(lines.readline())["command"]
                for answer in (ANSWERS.get(command, ANSWERS["close"]), *(EVENTS if command == "follow" else ())):
                    lines.write(json.dumps(answer).encode() + b"\n")


def poison_ledger(path: Path) -> None:
    """Write openings and refusals, as a key's comment or a certificate would have them written."""
    ledger = Ledger(path)
    fine = opening(since_s=NOW_S, until_s=NOW_S + 60)
    ledger.opened(Opening(POISON, fine.address, fine.ports, fine.since_s, fine.until_s, f"key {POISON}"))
    ledger.refused(POISON, fine.address, NOW_S, f"signed knock: the packet from key {POISON} is 4m behind")
    ledger.close()
