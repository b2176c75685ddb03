"""`doorward off`: for a locked-out operator, so it depends on as little as possible."""

from __future__ import annotations

import argparse
import json
import os
import select
import socket
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

from doorward.cli import output
from doorward.daemon import off_switch, saved_ruleset
from doorward.daemon.control_client import answering, default_path
from doorward.daemon.ledger import ledger_path
from doorward.errors import DoorwardError, UsageError
from doorward.nftables.libnftables import NftFirewall
from doorward.shield.attachment import remove_filters

_PATIENCE_S = 3.0  # for the daemon to end; it waits 2 s for running hooks, and longer only if it hangs
_REPAIR_S = 0.5  # in which a daemon without the off switch would restore its table
_RULESETS = (saved_ruleset.NAME, saved_ruleset.TRIAL_NAME)

EXAMPLE = """\
  # doorward off
  doorward is off: nothing is hidden, and it stays off across reboots until
  `doorward on`
exit status: 0 doorward is off, 2 something remains to be done"""


def add_arguments(_: argparse.ArgumentParser) -> None:
    """Declare no arguments."""


def run(_: argparse.Namespace) -> int:
    """Create the off marker, stop the daemon, and remove the table and the saved rulesets."""
    if os.geteuid() != 0:
        raise UsageError("needs-root", "off: this command is for root; run it with sudo or on the console")
    # The order matters. A process that loads a ruleset checks the marker before its transaction and again after it,
    # so a ruleset committed after the removal here is removed by the process that committed it. A daemon that sees
    # its table disappear checks the marker too, and ends; the request is for one that cannot see it.
    troubles = list(_create_marker())
    is_alone = _end_daemon()
    remove_filters()
    troubles += [*_remove_table(is_alone=is_alone), *_remove_rulesets()]
    output.error_line(*(f"doorward: {trouble}" for trouble in troubles))
    if troubles:
        return 2
    output.line("doorward is off: nothing is hidden, and it stays off across reboots until")
    output.line("`doorward on`")
    _report_firewalld()
    return 0


def _report_firewalld() -> None:
    from doorward.doctor.fix import has_firewalld_rules  # only now, since nothing before may depend on it

    with suppress(DoorwardError):
        if has_firewalld_rules():
            output.line("firewalld still closes the ports that `doorward doctor --fix` opened in it: run")
            output.line("`doorward doctor --undo`, and open in firewalld what you need")


def _create_marker() -> Iterator[str]:
    try:
        off_switch.switch_off()
    except OSError as error:
        yield (
            f"{off_switch.marker()}: {error.strerror}; the gate is removed, but the next start brings it back:"
            " make room there and repeat `doorward off`"
        )


def _end_daemon() -> bool:
    """Ask the daemon to end, without rollback or hooks, and return whether none is left.

    Its answer is not read. A process that does not end is left alone: it may hang, be an older version, or not be the
    daemon that root started.
    """
    control = default_path()
    process = answering(control)
    if process is None:
        return True
    is_ended = False
    with suppress(OSError), closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as asking:
        ended = os.pidfd_open(process)
        try:
            asking.settimeout(_PATIENCE_S)
            asking.connect(str(control))
            asking.sendall(json.dumps({"command": "off"}).encode() + b"\n")
            is_ended = bool(select.select([ended], [], [], _PATIENCE_S)[0])
        finally:
            os.close(ended)
    if not is_ended and answering(control) is not None:
        output.error_line(
            f"doorward: process {process} ({_process_name(process)}), which owns the control socket, does not end; a"
            f" daemon loads no ruleset while doorward is off: end it with `kill -9 {process}`"
        )
        return False
    return True


def _process_name(process: int) -> str:
    """Return a process's name for the operator to recognize: any process of the daemon's user can own the socket."""
    try:
        return Path(f"/proc/{process}/comm").read_text().strip()
    except (OSError, UnicodeDecodeError):
        return "gone"


def _remove_table(*, is_alone: bool) -> Iterator[str]:
    try:
        NftFirewall().unload()
        if not is_alone:
            time.sleep(_REPAIR_S)
        if NftFirewall().existing():
            yield "the table inet doorward was loaded again by another program; stop that program"
    except DoorwardError as error:
        yield f"the table inet doorward could not be removed: {error}; try `nft delete table inet doorward`"


def _remove_rulesets() -> Iterator[str]:
    """Remove the rulesets that a boot would load. The directory may be another user's: links are not followed."""
    for name in _RULESETS:
        path = ledger_path().with_name(name)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            yield f"{path}: {error.strerror}; remove it, otherwise an older unit loads it at boot"
