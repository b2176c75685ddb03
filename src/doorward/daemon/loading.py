"""Reading, compiling and loading a configuration, in a child process.

The parsed file, the tables and libnftables' trees are large for a moment; in a child they are gone with it, and
the daemon stays as small with 10,000 doors as with one. The child sends back what the daemon needs to know.
"""

from __future__ import annotations

import ctypes
import gc
import os
import pickle
import signal
import traceback
from dataclasses import dataclass
from pathlib import Path

from doorward.automaton.compile import compile_doors
from doorward.config.files import group_id, read
from doorward.config.schema import DEFAULT_CAPACITY, Configuration, Gate, WrongPort
from doorward.errors import DoorwardError, HostError
from doorward.gate.connections import standing_connections
from doorward.gate.nft import NftFilter
from doorward.gate.plan import Remaining
from doorward.gate.ruleset import Ruleset, compile_ruleset, default_capacity
from doorward.model import Door

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass(frozen=True, slots=True)
class Loaded:
    """What the daemon knows of the gate: settings, doors without their sequences, and the last states' doors."""

    gate: Gate
    doors: tuple[Door, ...]
    generation: str
    states: dict[int, tuple[int, ...]]

    def summary(self) -> str:
        """Say in a few words what is loaded."""
        count = len(self.doors)
        return f"{count} door{'' if count == 1 else 's'}, mode {self.gate.mode}"


def memory_bytes() -> int:
    """Give the machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def compile_configuration(configuration: Configuration, memory: int) -> Ruleset:
    """Compile a configuration for a machine with so much memory."""
    gate = configuration.gate
    automaton = compile_doors(configuration.doors, public=gate.public, known_only=gate.wrong_port is WrongPort.KNOWN)
    capacity = gate.capacity or default_capacity(memory, len(automaton.machines), DEFAULT_CAPACITY)
    return compile_ruleset(configuration.doors, automaton, gate, capacity)


class Loading:
    """A child that loads `path`; wait until its descriptor can be read, then take the result."""

    def __init__(self, path: Path, restore: Remaining) -> None:
        self._read, write = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            _child(write, path, restore)
        os.close(write)
        self._parts: list[bytes] = []

    def fileno(self) -> int:
        """Give the descriptor to wait on."""
        return self._read

    def abandon(self) -> None:
        """End the child, whatever it is at; nft's transaction is whole or not at all."""
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        os.close(self._read)

    def advance(self) -> bool:
        """Read what the child has sent; True when it is done."""
        part = os.read(self._read, 1 << 20)
        self._parts.append(part)
        return not part

    def result(self) -> Loaded:
        """Wait for the child and give what it loaded, or raise its DoorwardError."""
        while not self._parts or self._parts[-1]:
            self.advance()
        os.close(self._read)
        _, status = os.waitpid(self._pid, 0)
        raw = b"".join(self._parts)
        if code := os.waitstatus_to_exitcode(status):
            raise HostError(f"the loading process ended with status {code}; is there memory left? nothing was changed")
        outcome = pickle.loads(raw)  # noqa: S301 - from our own child, over our own pipe
        if isinstance(outcome, DoorwardError):
            raise outcome
        assert isinstance(outcome, Loaded)  # noqa: S101
        return outcome


def _child(write: int, path: Path, restore: Remaining) -> None:
    """Load, send the outcome, end without running the parent's clean-up."""
    status = 1
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # a load without its daemon would surprise the next
    # What the daemon holds (above all its netlink sockets, which are its lock) must not outlive it here.
    os.closerange(3, write)
    os.closerange(write + 1, os.sysconf("SC_OPEN_MAX"))
    gc.disable()  # trees of millions of objects, none of them garbage: collecting doubles the time
    try:
        outcome: Loaded | DoorwardError
        try:
            outcome = _load(path, restore)
        except DoorwardError as error:
            outcome = error
        with os.fdopen(write, "wb") as pipe:
            pickle.dump(outcome, pipe)
        status = 0
    except BrokenPipeError:  # the daemon is gone
        pass
    except BaseException:
        traceback.print_exc()  # a fault of doorward's own: the parent says what follows from it
    finally:
        os._exit(status)


def _load(path: Path, restore: Remaining) -> Loaded:
    configuration = read(path)
    ruleset = compile_configuration(configuration, memory_bytes())
    group_id(configuration.gate.control_group)  # before anything is changed
    NftFilter().load(ruleset, restore, standing_connections())
    shared = {door.opens: door.opens for door in configuration.doors}  # most doors open the same: keep one copy
    doors = tuple(door._replace(knock=(), opens=shared[door.opens]) for door in configuration.doors)
    return Loaded(configuration.gate, doors, ruleset.generation, ruleset.states)
