"""Reading, compiling and loading a configuration, in a child process.

The parsed file, the tables and libnftables' trees are large for a moment; in a child they are gone with it, and
the daemon stays as small with 10,000 doors as with one. The child sends back what the daemon needs to know, and
leaves the gate's text in a file (kept.py), from which it can be put back.
"""

from __future__ import annotations

import gc
import hashlib
import os
import signal
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, NamedTuple, Protocol, TypeVar

from doorward.config.files import exposure, read_text, trusted_owners
from doorward.config.schema import DEFAULT_CAPACITY, Configuration, Fleet, Gate, Signed, WrongPort
from doorward.config.toml import parse
from doorward.core.automaton import compile_doors
from doorward.core.diff import Remaining
from doorward.daemon import off_switch, requirements, saved_ruleset
from doorward.errors import DoorwardError
from doorward.kernel import child_process, privileges
from doorward.kernel.sock_diag import established_connections
from doorward.model import Door
from doorward.nftables.libnftables import NftFirewall
from doorward.nftables.monitor import RulesetMonitor, fingerprint, own_pid
from doorward.nftables.ruleset import Ruleset, compile_ruleset, default_capacity


class AppliedRuleset(NamedTuple):
    """What a child put into the kernel: by which process (gate/watch.py), and its rules' fingerprint, if it is sure.

    `refusal` says why nftables would not take the openings with it: then the gate is there without any of them.
    """

    process: int
    fingerprint: bytes
    refusal: str = ""


class LoadOutcome(Protocol):
    """What every child that changes the gate tells."""

    @property
    def commit(self) -> AppliedRuleset:
        """What it put there."""


T = TypeVar("T", bound=LoadOutcome)


@dataclass(frozen=True, slots=True)
class LoadResult:
    """What the daemon knows of the gate: settings, doors without their sequences, and the last states' doors.

    `not_kept` says why its text could not be kept, and is empty where it was; `warning` who can read the sequences.
    """

    gate: Gate
    doors: tuple[Door, ...]
    generation: str
    states: dict[int, tuple[int, ...]]
    commit: AppliedRuleset
    not_kept: str = ""
    warning: str = ""
    signed: Signed | None = None
    depths: tuple[tuple[int, int], ...] = ()  # how many knocks led to a state (automaton/compile.py)
    fleet: Fleet | None = None
    digest: str = ""  # of the configuration's text (`digest_of`)
    last_good: str = ""  # what is wrong with the file, where its last good copy was loaded instead (last_good.py)

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
    signed = configuration.signed
    no_symbols = gate.public if signed is None else (*gate.public, signed.port)
    automaton = compile_doors(configuration.doors, public=no_symbols, known_only=gate.wrong_port is WrongPort.KNOWN)
    capacity = gate.capacity or default_capacity(memory, len(automaton.machines), DEFAULT_CAPACITY)
    signed_port = None if signed is None else signed.port.number
    return compile_ruleset(configuration.doors, automaton, gate, capacity, signed_port)


class RestoredRuleset(NamedTuple):
    """A gate that was put back as it was last loaded."""

    commit: AppliedRuleset


class LoadProcess(Generic[T]):
    """A child that changes the gate by `work`; wait until its descriptor can be read, then take the result.

    Of the parent's descriptors the child has but `needed`.
    """

    def __init__(self, work: Callable[[], T], needed: int | None = None) -> None:
        self._read, write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            _child(write, work, needed)
        os.close(write)
        self._parts: list[bytes] = []

    def fileno(self) -> int:
        """Give the descriptor to wait on."""
        return self._read

    def abandon(self) -> None:
        """End the child, whatever it is at; nft's transaction is whole or not at all."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self._read)

    def advance(self) -> bool:
        """Read what the child has sent; True when it is done."""
        part = os.read(self._read, 1 << 20)
        self._parts.append(part)
        return not part

    def result(self) -> T:
        """Wait for the child and give what it tells, or raise its DoorwardError."""
        while not self._parts or self._parts[-1]:
            self.advance()
        os.close(self._read)
        outcome: T = child_process.result_of(self.pid, b"".join(self._parts))
        return outcome


def _child(write: int, work: Callable[[], T], needed: int | None) -> None:
    """Work, send the outcome, end without running the parent's clean-up."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    privileges.exit_with_parent(signal.SIGKILL)  # a load without its daemon would surprise the next
    # What the daemon holds (above all its netlink sockets, which are its lock) must not outlive it here.
    child_process.close_descriptors_except((*child_process.STANDARD, write, *([] if needed is None else [needed])))
    gc.disable()  # trees of millions of objects, none of them garbage: collecting doubles the time
    child_process.send_result(write, work)


def digest_of(text: str) -> str:
    """Return the SHA-256 of a configuration's text, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def load_file(path: Path, restore: Remaining, keep: Path) -> LoadResult:
    """Load a configuration file; what a child does at the start and at a reload."""
    text = read_text(path, trusted_owners())
    configuration = parse(text, str(path))
    loaded = load(configuration, path.parent, restore, keep)
    exposed = exposure(path) if any(door.knock for door in configuration.doors) else None
    warning = f"{path}: {exposed[0]}; {exposed[1]}" if exposed else ""
    return replace(loaded, warning=warning, digest=digest_of(text))


def load(configuration: Configuration, folder: Path, restore: Remaining, keep: Path) -> LoadResult:
    """Load a configuration whose requirements the host meets; the files that it names are relative to `folder`."""
    for requirement in requirements.of(configuration, folder):  # before anything is changed
        requirement.look()
    return load_gate(configuration, restore, keep)


def load_gate(
    configuration: Configuration, restore: Remaining, keep: Path, closed: tuple[Door, ...] = ()
) -> LoadResult:
    """Compile and load a configuration, with `restore` as its openings, and keep its text in the file `keep`.

    The ports of the doors in `closed` are hidden too, and nothing opens them.
    """
    hidden = tuple(door._replace(knock=()) for door in closed)
    ruleset = compile_configuration(replace(configuration, doors=(*configuration.doors, *hidden)), memory_bytes())
    not_kept = saved_ruleset.prepare(keep, ruleset.for_boot())
    try:
        commit = _watched(lambda: NftFirewall().load(ruleset, restore, established_connections()))
    except DoorwardError:
        saved_ruleset.discard(keep)
        raise
    not_kept = not_kept or saved_ruleset.commit(keep)
    shared = {door.opens: door.opens for door in configuration.doors}  # most doors open the same: keep one copy
    doors = tuple(door._replace(knock=(), opens=shared[door.opens]) for door in configuration.doors)
    return LoadResult(
        configuration.gate,
        doors,
        ruleset.generation,
        ruleset.states,
        commit,
        not_kept,
        signed=configuration.signed,
        depths=ruleset.depths,
        fleet=configuration.fleet,
    )


def put_back(keep: Path, restore: Remaining) -> RestoredRuleset:
    """Load the text that was kept; what a child does where another program changed the gate."""
    text = saved_ruleset.read_saved(keep)
    return RestoredRuleset(_watched(lambda: NftFirewall().restore(text, restore, established_connections())))


def _watched(change: Callable[[], str]) -> AppliedRuleset:
    """Change the gate, and tell what is there then; without a fingerprint where others changed it meanwhile."""
    own = own_pid()
    off_switch.refuse_if_off()
    with closing(RulesetMonitor()) as watch:
        watch.ignore_pid(os.getpid())
        refusal = change()
        if off_switch.is_off():  # it was switched off meanwhile, and the table may have been removed before this commit
            NftFirewall().unload()
            off_switch.refuse_if_off()
        found, told = fingerprint(), watch.read()
    is_sure = told is not None and all(each.process == own or each.scope != "rules" for each in told)
    return AppliedRuleset(own, found if is_sure else b"", refusal)
