"""`doorward off`: for an operator who is locked out, so it depends on as little as possible."""

from __future__ import annotations

import argparse
import os
import select
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from doorward.cli import render
from doorward.daemon import kept, switch
from doorward.daemon.control import answering, ask, default_path
from doorward.errors import AnswerNo, DoorwardError, UsageError
from doorward.gate.nft import NftFilter
from doorward.ledger import ledger_path

_PATIENCE_S = 2.0  # for a daemon that answers, and again for one that ends
_RULESETS = (kept.NAME, kept.TRIAL_NAME)

EXAMPLE = """\
  # doorward off
  doorward is off: nothing is hidden, and the gate stays away, also after a
  reboot; `doorward on` ends that
exit status: 0 the gate is gone and stays away, 2 something is left to do"""


def add_arguments(_: argparse.ArgumentParser) -> None:
    """Declare the command's words: there are none."""


def run(_: argparse.Namespace) -> int:
    """Make the file that keeps the gate away, end the daemon, remove the table and the saved rulesets."""
    if os.geteuid() != 0:
        raise UsageError("off: this command is for root; run it with sudo or on the console")
    # In this order. Whatever loads a gate looks for the file before its transaction and once more after it, so that
    # a gate that is committed after the table is removed here is removed by the process that committed it.
    troubles = [*_make_file(), *_end_daemon(), *_remove_table(), *_remove_rulesets()]
    for trouble in troubles:
        sys.stderr.write(f"doorward: {trouble}\n")
    if troubles:
        return 2
    render.line("doorward is off: nothing is hidden, and the gate stays away, also after a")
    render.line("reboot; `doorward on` ends that")
    return 0


def _make_file() -> Iterator[str]:
    try:
        switch.switch_off()
    except OSError as error:
        yield (
            f"{switch.marker()}: {error.strerror}; the gate is removed, but the next start brings it back:"
            " make room there and repeat `doorward off`"
        )


def _end_daemon() -> Iterator[str]:
    """Ask the daemon to end: it takes no trial back and runs no hook. One that hangs is left: it can load nothing."""
    control = default_path()
    process = answering(control)
    if process is None:
        return
    ended = None
    with suppress(OSError):  # of another PID namespace, or gone
        ended = os.pidfd_open(process)
    try:
        ask(control, {"command": "off"}, patience_s=_PATIENCE_S)
        is_ended = ended is None or select.select([ended], [], [], _PATIENCE_S)[0]
    except AnswerNo:  # it hangs, or it has ended
        is_ended = ended is None or select.select([ended], [], [], 0)[0]
    except DoorwardError as error:  # it is an older one, which does not know of the file
        yield f"the daemon, process {process}, does not end: {error}; stop it, and repeat `doorward off`"
        return
    finally:
        if ended is not None:
            os.close(ended)
    if not is_ended:
        sys.stderr.write(
            f"doorward: the daemon, process {process} ({_name(process)}), does not answer; it loads no gate while"
            f" doorward is off: end it with `kill -9 {process}`\n"
        )


def _name(process: int) -> str:
    """Return a process's name, for the operator to recognize: the socket is in a directory of the daemon's user."""
    try:
        return Path(f"/proc/{process}/comm").read_text().strip()
    except (OSError, UnicodeDecodeError):
        return "gone"


def _remove_table() -> Iterator[str]:
    try:
        NftFilter().unload()
        if NftFilter().existing():
            yield "the table inet doorward is there again: another program loads it; stop that one"
    except DoorwardError as error:
        yield f"the table inet doorward could not be removed: {error}; try `nft delete table inet doorward`"


def _remove_rulesets() -> Iterator[str]:
    """Remove what a boot would load. The directory may be another user's: names are removed, links never followed."""
    for name in _RULESETS:
        path = ledger_path().with_name(name)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            yield f"{path}: {error.strerror}; remove it, else an older unit loads it at boot"
