"""What runs, what stands in the kernel, and what the next boot brings."""

from __future__ import annotations

from collections.abc import Iterator

from doorward.automaton.compile import compile_doors
from doorward.config.schema import DEFAULT_CAPACITY, Configuration, WrongPort
from doorward.doctor.finding import Finding, Level
from doorward.doctor.host import Facts
from doorward.gate.ruleset import default_capacity

DAEMON, GATE = "doorward.service", "doorward-gate.service"
_FULL = 0.9  # of conntrack's table: a burst of a few seconds fills the rest


def judge(file: str, configuration: Configuration, facts: Facts) -> Iterator[Finding]:
    """Look at the kernel, the daemon, the boot and the bounds."""
    yield _kernel(facts)
    yield _daemon(file, facts)
    yield from _boot(configuration, facts)
    yield from _bounds(configuration, facts)
    if configuration.signed is not None and facts.signed_trouble:
        yield Finding(Level.ERROR, "signed knocks", facts.signed_trouble, "without it the gate cannot be loaded")
    for trouble in facts.unread:
        yield Finding(Level.WARNING, "this host", trouble, "mend that, or look there yourself")


def _kernel(facts: Facts) -> Finding:
    if facts.refusal:
        return Finding(Level.ERROR, "nftables", facts.refusal, "the gate cannot be loaded before that is mended")
    return Finding(Level.OK, "nftables", "the kernel and libnftables take the gate")


def _daemon(file: str, facts: Facts) -> Finding:
    status = facts.daemon
    if status is None:
        if facts.table_stands:
            what = "no daemon runs; knocks still open doors, but nothing is recorded, and no command of a door runs"
        else:
            what = "no daemon runs and no gate is loaded: nothing is hidden"
        start = f"systemctl start {DAEMON}" if DAEMON in facts.boot.units else "doorward run"
        return Finding(Level.WARNING, "daemon", what, "start it", (start,))
    where = f"daemon, process {status['pid']}"
    if not facts.table_stands:
        what = "it runs, but the table inet doorward is gone: nothing is hidden, and no knock opens"
        return Finding(Level.ERROR, where, what, "have it load the gate again", (f"kill -HUP {status['pid']}",))
    if status.get("config", file) != file:
        what = f"it runs with {status['config']}, not with {file}"
        return Finding(Level.WARNING, where, what, f"look at that file with -c {status['config']}")
    if facts.is_as_loaded is False and not status.get("trial"):
        what = f"{file} is not what it runs with: it was changed since it was loaded"
        return Finding(Level.WARNING, where, what, "have it read the file again", (f"kill -HUP {status['pid']}",))
    return Finding(Level.OK, where, f"it runs: {status['summary']}")


def _boot(configuration: Configuration, facts: Facts) -> Iterator[Finding]:
    if not facts.boot.systemd:
        remedy = "have whatever starts services here run `doorward run`, before the network if it can"
        yield Finding(
            Level.WARNING, "boot", "systemd does not run here: whether a gate stands at boot is not known", remedy
        )
        return
    enabled = facts.boot.units & {DAEMON, GATE}
    if not enabled:
        # Behind a firewall that accepts by the mark, a door that nobody marks stays shut.
        shut = configuration.gate.accept_mark is not None
        after = "another firewall would keep the doors shut" if shut else "nothing would be hidden"
        what = f"no enabled unit loads the gate at boot: after the next one {after}"
        commands = (f"systemctl enable {GATE} {DAEMON}",)
        yield Finding(Level.ERROR if shut else Level.WARNING, "boot", what, "enable the units", commands)
    elif GATE not in enabled:
        what = f"{DAEMON} loads the gate at boot, after the network is up: for a moment nothing is hidden"
        yield Finding(Level.WARNING, "boot", what, "enable the other unit too", (f"systemctl enable {GATE}",))
    elif DAEMON not in enabled:
        what = f"{GATE} loads the gate at boot, but no daemon starts: nothing is recorded, no command of a door runs"
        yield Finding(Level.WARNING, "boot", what, "enable the other unit too", (f"systemctl enable {DAEMON}",))
    else:
        yield Finding(Level.OK, "boot", "the gate is loaded before the network, and the daemon starts")


def _bounds(configuration: Configuration, facts: Facts) -> Iterator[Finding]:
    gate = configuration.gate
    if gate.capacity is None:
        known = gate.wrong_port is WrongPort.KNOWN
        machines = compile_doors(configuration.doors, public=gate.public, known_only=known).machines
        capacity = default_capacity(facts.memory_bytes, len(machines), DEFAULT_CAPACITY)
        if capacity < DEFAULT_CAPACITY:
            what = (
                f"with {facts.memory_bytes >> 20:,} MiB the gate remembers {capacity:,} sources a family, not "
                f"{DEFAULT_CAPACITY:,}: a smaller flood of forged knocks makes others hurry"
            )
            yield Finding(Level.OK, "memory", what, "set `capacity` in [gate] to choose it yourself")
    if facts.conntrack is not None:
        now, most = facts.conntrack
        if now > most * _FULL:
            what = f"conntrack holds {now:,} of {most:,} connections: when it is full, new ones are dropped"
            command = f"sysctl -w net.netfilter.nf_conntrack_max={most * 2}"
            yield Finding(Level.WARNING, "conntrack", what, "raise its limit", (command,))
