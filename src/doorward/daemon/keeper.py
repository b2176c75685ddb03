"""A small process that keeps the promise of a trial where the daemon is killed: it takes the new gate back in time.

While the daemon lives the keeper only waits. Time is CLOCK_BOOTTIME, which goes on while the machine is suspended.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path

from doorward.daemon import switch
from doorward.daemon.apart import STANDARD, keep_only
from doorward.daemon.control import answering
from doorward.daemon.loading import put_back
from doorward.daemon.switch import SwitchedOff
from doorward.errors import DoorwardError
from doorward.escape import visible
from doorward.gate.nft import NftFilter

_RETRY_S = 1.0  # also how late a deadline may be noticed after a suspend
_LOOK_S = 0.5  # how late it may be noticed that doorward is switched off
_DONE = b"."


def now_s() -> float:
    """Seconds since the start, those of a suspend included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Keeper:
    """The daemon's side. After the daemon's death the gate kept in `before` is put back at `deadline_s`.

    `before` is None where none stood: then the table is taken away.
    """

    def __init__(self, deadline_s: float, before: Path | None, control: Path) -> None:
        read, self._write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            _keep(read, deadline_s, before, control)
        os.close(read)

    def dismiss(self) -> None:
        """Let it go: the trial is over."""
        with suppress(BrokenPipeError):  # it was killed
            os.write(self._write, _DONE)
        self.leave()
        os.waitpid(self.pid, 0)

    def leave(self) -> None:
        """End without a word: the keeper does what it is there for."""
        os.close(self._write)


def _keep(read: int, deadline_s: float, before: Path | None, control: Path) -> None:
    """Wait for a word or for the daemon's death, and after that for the deadline."""
    status, hurry = 1, list[int]()
    try:
        os.setsid()  # the end of the operator's session is no reason to go
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        # A service manager that stops the unit waits for this process, though not for ever.
        signal.signal(signal.SIGTERM, lambda number, _: hurry.append(number))
        # What the daemon holds (above all its netlink sockets, which are its lock) must not outlive it here.
        keep_only((*STANDARD, read))
        if _is_alone(read) and _is_due(deadline_s, hurry):
            while not _take_back(before, control):
                time.sleep(_RETRY_S)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _is_alone(read: int) -> bool:
    """Wait for the daemon; True: it died. False: the trial is over, or doorward is switched off, whatever it does."""
    while not switch.is_off():
        if select.select([read], [], [], _LOOK_S)[0]:
            return os.read(read, 1) != _DONE
    return False


def _is_due(deadline_s: float, hurry: list[int]) -> bool:
    """Wait for the deadline, or for a signal; False: doorward was switched off before."""
    while not switch.is_off():
        if (left_s := deadline_s - now_s()) <= 0 or hurry:
            return True
        select.select([], [], [], min(left_s, _LOOK_S))
    return False


def _take_back(before: Path | None, control: Path) -> bool:
    """Put the gate back, unless another daemon has come, which has loaded its own, or doorward was switched off."""
    if answering(control) is not None or (before is not None and not os.path.lexists(before)):
        return True
    try:
        restore(before)
    except SwitchedOff:
        return True
    except DoorwardError as error:
        with suppress(OSError):
            sys.stderr.write(
                f"doorward: the gate on trial could not be taken back: {visible(str(error))}; trying again\n"
            )
            sys.stderr.flush()
        return False
    return True


def restore(before: Path | None) -> None:
    """Put the gate back that stood before a trial; openings stay."""
    if before is None:
        NftFilter().unload()
    else:
        put_back(before, {})
