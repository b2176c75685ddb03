"""What runs, what stands in the kernel, and what the next boot brings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from doorward.automaton.compile import compile_doors
from doorward.config.schema import DEFAULT_CAPACITY, Configuration, Mode, WrongPort
from doorward.doctor.finding import Finding, Level
from doorward.doctor.host import Facts
from doorward.gate.ruleset import default_capacity

DAEMON, GATE = "doorward.service", "doorward-gate.service"
_MOST_NAMED = 5  # doors in one finding
_FULL = 0.9  # of conntrack's table: a burst of a few seconds fills the rest


def judge(file: str, configuration: Configuration, facts: Facts) -> Iterator[Finding]:
    """Look at the kernel, the daemon, the boot and the bounds."""
    yield _kernel(facts)
    emergency = next(emergencies(facts.daemon, facts.off_since), None)
    if emergency is not None:
        yield emergency
    else:
        yield _daemon(file, configuration, facts)
    if not facts.off_since:
        yield from _boot(configuration, facts)
    yield from _bounds(configuration, facts)
    if configuration.signed is not None and facts.signed_trouble:
        yield Finding(Level.ERROR, "signed knocks", facts.signed_trouble, "without it the gate cannot be loaded")
    for trouble in facts.unread:
        yield Finding(Level.WARNING, "this host", trouble, "mend that, or look there yourself")


def emergencies(daemon: Mapping[str, Any] | None, off_since: str) -> Iterator[Finding]:
    """Report what is true whatever the file says: doorward is off, or runs with its last good configuration.

    `daemon` is what the daemon answers to `status`; `off_since` is empty while doorward is on.
    """
    if off_since:
        what = f"doorward is switched off since {off_since}: nothing is hidden, and no knock is read"
        yield Finding(Level.ERROR, "doorward", what, "when you can get in without it, switch it on", ("doorward on",))
    elif daemon is not None and (fault := daemon.get("last_good")):
        what = (
            f"{daemon['config']} could not be loaded ({str(fault).splitlines()[0]}): its last good copy is in force,"
            " and hooks do not run"
        )
        remedy = "repair the file (`doorward check`), and have the daemon load it"
        yield Finding(Level.ERROR, f"daemon, process {daemon['pid']}", what, remedy, (f"kill -HUP {daemon['pid']}",))


def without_daemon(configuration: Configuration) -> list[str]:
    """Name the hidden doors that nothing but the daemon opens: by signed knocks, or by hand."""
    if configuration.gate.mode is Mode.OBSERVE:
        return []
    return [door.name for door in configuration.doors if door.opens and not door.knock]


def _kernel(facts: Facts) -> Finding:
    if facts.refusal:
        return Finding(Level.ERROR, "nftables", facts.refusal, "the gate cannot be loaded before that is mended")
    return Finding(Level.OK, "nftables", "the kernel and libnftables take the gate")


def _daemon(file: str, configuration: Configuration, facts: Facts) -> Finding:
    status = facts.daemon
    if status is None:
        level, needy = Level.WARNING, without_daemon(configuration)
        if not facts.table_stands:
            what = "no daemon runs and no gate is loaded: nothing is hidden"
        elif needy:
            level = Level.ERROR
            what = f"no daemon runs, and without one nothing opens {_doors(needy)}"
            if any(door.knock for door in configuration.doors):
                what += "; sequences still open the others"
        else:
            what = "no daemon runs; sequences still open doors, but nothing is recorded, and no hook runs"
        start = f"systemctl start {DAEMON}" if DAEMON in facts.boot.units else "doorward run"
        return Finding(level, "daemon", what, "start it", (start,))
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
        needy = without_daemon(configuration)
        follows = f"nothing opens {_doors(needy)}" if needy else "nothing is recorded, and no hook runs"
        what = f"{GATE} loads the gate at boot, but no daemon starts: {follows}"
        level = Level.ERROR if needy else Level.WARNING
        yield Finding(level, "boot", what, "enable the other unit too", (f"systemctl enable {DAEMON}",))
    else:
        yield Finding(Level.OK, "boot", "the gate is loaded before the network, and the daemon starts")


def _doors(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:_MOST_NAMED])
    return f"{'door' if len(names) == 1 else 'doors'} {shown}{', …' if names[_MOST_NAMED:] else ''}"


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
