"""Read, compile and load a configuration in a child process.

The parsed file, the tables and libnftables' trees are large for a moment; their memory is freed with the child, and
the daemon stays as small with 10,000 doors as with one. The child sends a summary to the daemon, and saves the
ruleset in a file (saved_ruleset.py), from which it can be restored.
"""

from __future__ import annotations

import gc
import hashlib
import os
import secrets
import signal
from collections.abc import Callable, Collection, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, NamedTuple, Protocol, TypeVar

from doorward.config.files import exposure, read_text, trusted_owners
from doorward.config.schema import DEFAULT_CAPACITY, Configuration, Gate, Shield, WrongPort
from doorward.config.toml import parse
from doorward.core.automaton import Automaton, compile_doors
from doorward.core.diff import Remaining
from doorward.daemon import off_switch, requirements, saved_ruleset
from doorward.errors import DoorwardError
from doorward.kernel import child_process, privileges
from doorward.kernel.forwarding import SYSCTLS, is_forwarding
from doorward.kernel.sock_diag import established_connections
from doorward.model import Door, Port
from doorward.nftables.libnftables import NftFirewall
from doorward.nftables.monitor import RulesetMonitor, fingerprint, own_pid
from doorward.nftables.ruleset import Ruleset, compile_ruleset, default_capacity
from doorward.nftables.shield_chains import ShieldMark
from doorward.shield import tables

_SHIELD_KEY = secrets.token_bytes(16)  # of this daemon's tokens; a load's child has it too


class AppliedRuleset(NamedTuple):
    """A ruleset that was loaded: by which process (nftables/monitor.py), and its fingerprint, or b"" if unsure.

    `refusal` is why nftables rejected the openings; the ruleset was then loaded without any.
    """

    process: int
    fingerprint: bytes
    refusal: str = ""


class LoadOutcome(Protocol):
    """The result of any child that changes the ruleset."""

    @property
    def commit(self) -> AppliedRuleset:
        """The ruleset that it loaded."""


T = TypeVar("T", bound=LoadOutcome)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadResult(Configuration):
    """What the daemon keeps of a loaded configuration: the doors without their sequences, and final states' doors.

    `not_kept` is why the ruleset could not be saved, or ""; `warning` has lines for the log.
    """

    generation: str
    states: dict[int, tuple[int, ...]]
    commit: AppliedRuleset
    not_kept: str = ""
    warning: str = ""
    depths: tuple[tuple[int, int], ...] = ()  # how many knocks led to a state (core/automaton.py)
    digest: str = ""  # of the configuration's text (`digest_of`)
    shield: bytes = b""  # its tables (shield/tables.py)
    no_shield: str = ""  # why it has none though it is to have one
    last_good: str = ""  # the faults of the file, if its last good copy was loaded instead (last_good.py)

    def summary(self) -> str:
        """Return a short description of what is loaded."""
        count = len(self.doors)
        return f"{count} door{'' if count == 1 else 's'}, mode {self.gate.mode}"


def memory_bytes() -> int:
    """Return the size of the host's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def compile_configuration(configuration: Configuration, memory: int, automaton: Automaton | None = None) -> Ruleset:
    """Compile a configuration, the doors too if there is no `automaton` yet, for a host with `memory` bytes."""
    gate, signed_ports = configuration.gate, configuration.signed_ports
    automaton = automaton or _compile_doors(configuration)
    capacity = gate.capacity or default_capacity(memory, len(automaton.machines), DEFAULT_CAPACITY)
    return compile_ruleset(
        configuration.doors, automaton, gate, capacity, signed_ports,
        is_for_browsers=configuration.is_for_browsers, fwknop=configuration.fwknop,
        shield=_shield_mark(gate, automaton),
    )  # fmt: skip


def _compile_doors(configuration: Configuration) -> Automaton:
    known_only = configuration.gate.wrong_port is WrongPort.KNOWN
    return compile_doors(configuration.doors, public=_public_ports(configuration), known_only=known_only)


def _public_ports(configuration: Configuration) -> frozenset[Port]:
    """Return the ports that are neither hidden nor a knock's."""
    return frozenset((*configuration.gate.public, *configuration.signed_ports))


def _shield_mark(gate: Gate, automaton: Automaton) -> ShieldMark | None:
    if gate.shield is Shield.OFF or tables.unsupported(gate, automaton):
        return None
    return ShieldMark(*tables.mark_of(tables.shielded_machines(automaton), _SHIELD_KEY))


def _shield_tables(configuration: Configuration, automaton: Automaton) -> tuple[bytes, str]:
    """Return the shield's tables, or b"" and why it cannot have any ("" where it is off)."""
    gate = configuration.gate
    if gate.shield is Shield.OFF:
        return b"", ""
    if reason := tables.unsupported(gate, automaton):
        return b"", reason
    public = _public_ports(configuration)
    return tables.compile_tables(gate, automaton, configuration.doors, public, _SHIELD_KEY).pack(), ""


class RestoredRuleset(NamedTuple):
    """A ruleset that was restored as last loaded."""

    commit: AppliedRuleset


class LoadProcess(Generic[T]):
    """A child that changes the ruleset with `work`; wait until its descriptor is readable, then call `advance`.

    Of the parent's descriptors it inherits `needed` alone.
    """

    def __init__(self, work: Callable[[], T], needed: int | None = None) -> None:
        self._read, write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            _child(write, work, needed)
        os.close(write)
        self._parts: list[bytes] = []

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        return self._read

    def abandon(self) -> None:
        """Kill the child; an nft transaction is atomic."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self._read)

    def advance(self) -> bool:
        """Read what the child has sent; True when it is done."""
        part = os.read(self._read, 1 << 20)
        self._parts.append(part)
        return not part

    def result(self) -> T:
        """Wait for the child; return its result, or raise its DoorwardError."""
        while not self._parts or self._parts[-1]:
            self.advance()
        os.close(self._read)
        outcome: T = child_process.result_of(self.pid, b"".join(self._parts))
        return outcome


def _child(write: int, work: Callable[[], T], needed: int | None) -> None:
    """Run `work`, send the outcome, and exit without the parent's clean-up."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    privileges.exit_with_parent(signal.SIGKILL)  # a load without its daemon would surprise the next
    # The daemon's descriptors, above all its netlink sockets, which act as its lock, must not outlive it here.
    child_process.close_descriptors_except((*child_process.STANDARD, write, *([] if needed is None else [needed])))
    gc.disable()  # trees of millions of objects, none of them garbage: collecting doubles the time
    child_process.send_result(write, work)


def digest_of(text: str) -> str:
    """Return the SHA-256 of a configuration's text, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def load_file(path: Path, restore: Remaining, keep: Path, held: Collection[Port] = ()) -> LoadResult:
    """Load a configuration file; a child does this at the start and on reload."""
    text = read_text(path, trusted_owners())
    configuration = parse(text, str(path))
    loaded = load(configuration, path.parent, restore, keep, held)
    exposed = exposure(path) if any(door.knock for door in configuration.doors) else None
    warnings = [f"{path}: {exposed.fault}; {exposed.remedy}"] if exposed else []
    return replace(loaded, warning="\n".join([*warnings, *_not_forwarded(configuration)]), digest=digest_of(text))


def _not_forwarded(configuration: Configuration) -> Iterator[str]:
    """Yield a warning for each address family that this host does not forward, though a door opens ports behind it."""
    versions = {port.host.version for door in configuration.doors for port in door.leads_to}
    for version in sorted(versions):
        if not is_forwarding(version):
            yield f"this host forwards no IPv{version} packets to the hosts behind it; set {SYSCTLS[version]} = 1"


def load(
    configuration: Configuration, directory: Path, restore: Remaining, keep: Path, held: Collection[Port] = ()
) -> LoadResult:
    """Load a configuration if the host meets its requirements; its files are relative to `directory`."""
    for requirement in requirements.of(configuration, directory, held):  # before anything is changed
        requirement.look()
    return load_gate(configuration, restore, keep)


def load_gate(
    configuration: Configuration, restore: Remaining, keep: Path, closed: tuple[Door, ...] = ()
) -> LoadResult:
    """Compile and load a configuration, with `restore` as its openings, and save the ruleset in the file `keep`.

    The ports of the doors in `closed` are hidden too, and nothing opens them.
    """
    hidden = tuple(door._replace(knock=()) for door in closed)
    complete = replace(configuration, doors=(*configuration.doors, *hidden))
    automaton = _compile_doors(complete)
    ruleset = compile_configuration(complete, memory_bytes(), automaton)
    shield, no_shield = _shield_tables(complete, automaton)
    del automaton  # large, as what nft makes of the ruleset
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
        configuration.signed,
        configuration.fleet,
        configuration.fwknop,
        generation=ruleset.generation,
        states=ruleset.states,
        commit=commit,
        not_kept=not_kept,
        depths=ruleset.depths,
        shield=shield,
        no_shield=no_shield,
    )


def load_saved(keep: Path, restore: Remaining) -> RestoredRuleset:
    """Load the saved ruleset; a child does this if another program changed it."""
    text = saved_ruleset.read_saved(keep)
    return RestoredRuleset(_watched(lambda: NftFirewall().restore(text, restore, established_connections())))


def _watched(change: Callable[[], str]) -> AppliedRuleset:
    """Change the ruleset and return the result, without a fingerprint if others changed it meanwhile."""
    own = own_pid()
    off_switch.refuse_if_off()
    with closing(RulesetMonitor()) as watch:
        watch.ignore_pid(os.getpid())
        refusal = change()
        if off_switch.is_off():  # it was switched off meanwhile, and the table may have been removed before this commit
            NftFirewall().unload()
            off_switch.refuse_if_off()
        found, changes = fingerprint(), watch.read()
    is_sure = changes is not None and all(each.process == own or each.scope != "rules" for each in changes)
    return AppliedRuleset(own, found if is_sure else b"", refusal)
