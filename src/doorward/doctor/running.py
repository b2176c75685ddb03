"""Check the daemon, the loaded ruleset and the next boot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from doorward.config.schema import DEFAULT_CAPACITY, Configuration, Mode, Shield, WrongPort
from doorward.core.automaton import Automaton, compile_doors
from doorward.doctor.host import Facts
from doorward.doctor.problem import ERROR, OK, WARNING, Problem
from doorward.nftables.ruleset import default_capacity
from doorward.shield import tables

DAEMON, GATE = "doorward.service", "doorward-gate.service"
_MAX_LISTED = 5  # doors listed in one finding
_FULL = "ratelimit_full", "short_window", "short_window_full", "progress_full"  # counters: only a flood fills the sets
_CONNTRACK_LIMIT = 0.9  # share of conntrack's table: a burst of a few seconds fills the rest


def check(file: str, configuration: Configuration, facts: Facts) -> Iterator[Problem]:
    """Yield the findings about the kernel, the daemon, the boot and the limits."""
    yield _kernel(facts)
    emergency = next(emergencies(facts.daemon, facts.off_since), None)
    if emergency is not None:
        yield emergency
    else:
        yield _daemon(file, configuration, facts)
    if not facts.off_since:
        yield from _shield(configuration, facts)
        yield from _boot(configuration, facts)
    yield from _limits(configuration, facts)
    if configuration.signed is not None and facts.signed_error:
        yield Problem(
            "signed-knocks-unusable", ERROR, "signed knocks", facts.signed_error, "without it the gate cannot be loaded"
        )
    for trouble in facts.unread:
        yield Problem("host-unchecked", WARNING, "this host", trouble, "fix that, or check by hand")


def emergencies(daemon: Mapping[str, Any] | None, off_since: str) -> Iterator[Problem]:
    """Yield what does not depend on the configuration: doorward is off, or runs with its last good configuration.

    `daemon` is the daemon's answer to `status`; `off_since` is empty while doorward is on.
    """
    if off_since:
        what = f"doorward has been off since {off_since}: nothing is hidden, and knocks are ignored"
        yield Problem(
            "switched-off", ERROR, "doorward", what, "once you can log in without it, turn it on", ("doorward on",)
        )
    elif daemon is not None and (fault := daemon.get("last_good")):
        what = (
            f"{daemon['config']} could not be loaded ({str(fault).splitlines()[0]}): its last good copy is active,"
            " and hooks do not run"
        )
        remedy = "fix the file (`doorward check`), and reload the daemon"
        yield Problem(
            "last-good-in-force",
            ERROR,
            f"daemon, process {daemon['pid']}",
            what,
            remedy,
            (f"kill -HUP {daemon['pid']}",),
        )


def daemon_only_doors(configuration: Configuration) -> list[str]:
    """Return the hidden doors that only the daemon opens, by signed knocks or by hand."""
    if configuration.gate.mode is Mode.OBSERVE:
        return []
    return [door.name for door in configuration.doors if door.all_opens and not door.knock]


def _kernel(facts: Facts) -> Problem:
    if facts.rejection:
        return Problem(
            "ruleset-rejected", ERROR, "nftables", facts.rejection, "fix that; until then the gate cannot be loaded"
        )
    return Problem("ruleset-accepted", OK, "nftables", "the kernel and libnftables accept the ruleset")


def _daemon(file: str, configuration: Configuration, facts: Facts) -> Problem:
    status = facts.daemon
    if status is None:
        level, affected = WARNING, daemon_only_doors(configuration)
        if facts.is_table_loaded is False:
            what = "the daemon is not running and no gate is loaded: nothing is hidden"
        elif affected:
            level = ERROR
            what = f"the daemon is not running: nothing opens {_doors(affected)}"
            if any(door.knock for door in configuration.doors):
                what += "; sequences still open the others"
        else:
            what = "the daemon is not running; sequences still open doors, but nothing is recorded and hooks do not run"
        start = f"systemctl start {DAEMON}" if DAEMON in facts.boot.units else "doorward run"
        return Problem("no-daemon", level, "daemon", what, "start it", (start,))
    where = f"daemon, process {status['pid']}"
    if facts.is_table_loaded is False:
        what = "it is running, but the table inet doorward is missing: nothing is hidden, and knocks open nothing"
        return Problem("table-missing", ERROR, where, what, "reload the daemon", (f"kill -HUP {status['pid']}",))
    if status.get("config", file) != file:
        what = f"it is running with {status['config']}, not with {file}"
        return Problem("other-file-in-force", WARNING, where, what, f"check that file with -c {status['config']}")
    if facts.is_as_loaded is False and not status.get("trial"):
        what = f"{file} was changed after it was loaded"
        return Problem("file-changed", WARNING, where, what, "reload the daemon", (f"kill -HUP {status['pid']}",))
    return Problem("daemon-running", OK, where, f"running: {status['summary']}")


def _shield(configuration: Configuration, facts: Facts) -> Iterator[Problem]:
    status = facts.daemon or {}
    shield = status.get("shield")  # missing from an older daemon
    if shield is None:
        refused = sum(status.get("counters", {}).get(name, 0) for name in _FULL)
        if refused and facts.can_shield and not tables.unsupported(configuration.gate, _automaton(configuration)):
            what = f"floods filled the sets of sources: {refused:,} knock packets were ignored, or got a short deadline"
            remedy = 'write shield = "auto" in [gate], and restart the daemon'
            yield Problem("shield-advised", WARNING, "shield", what, remedy)
        return
    if shield["interfaces"] and not shield["trouble"]:
        if no_xdp := shield.get("no_xdp"):
            yield Problem(
                "no-xdp",
                WARNING,
                "shield",
                f"no XDP: {no_xdp}; it drops packets at tcx",
                'change that, or write shield = "on"',
            )
        yield Problem(
            "shield-attached", OK, "shield", f"it drops knock packets early on {', '.join(shield['interfaces'])}"
        )
        return
    level = WARNING if shield["wanted"] == Shield.AUTO else ERROR
    what = f"{shield['trouble'] or 'it is not attached'}: the gate works without it, and a flood of packets costs more"
    yield Problem("no-shield", level, "shield", what, 'change that, or write shield = "off"')


def _automaton(configuration: Configuration) -> Automaton:
    gate = configuration.gate
    return compile_doors(configuration.doors, public=gate.public, known_only=gate.wrong_port is WrongPort.KNOWN)


def _boot(configuration: Configuration, facts: Facts) -> Iterator[Problem]:
    if not facts.boot.systemd:
        remedy = "make the service manager run `doorward run`, before the network if possible"
        yield Problem(
            "no-systemd",
            WARNING,
            "boot",
            "systemd is not running: cannot tell whether the gate is loaded at boot",
            remedy,
        )
        return
    enabled = facts.boot.units & {DAEMON, GATE}
    if not enabled:
        # Behind a firewall that accepts by the mark, a door stays shut if no ruleset sets the mark.
        shut = configuration.gate.accept_mark is not None
        after = "another firewall would keep the doors shut" if shut else "nothing would be hidden"
        what = f"no enabled unit loads the gate at boot: after a reboot {after}"
        commands = (f"systemctl enable {GATE} {DAEMON}",)
        yield Problem("no-unit-enabled", ERROR if shut else WARNING, "boot", what, "enable the units", commands)
    elif GATE not in enabled:
        what = f"{DAEMON} loads the gate at boot, after the network is up: for a moment nothing is hidden"
        yield Problem(
            "gate-unit-disabled", WARNING, "boot", what, "enable the other unit too", (f"systemctl enable {GATE}",)
        )
    elif DAEMON not in enabled:
        affected = daemon_only_doors(configuration)
        consequence = f"nothing opens {_doors(affected)}" if affected else "nothing is recorded and hooks do not run"
        what = f"{GATE} loads the gate at boot, but no daemon starts: {consequence}"
        level = ERROR if affected else WARNING
        yield Problem(
            "daemon-unit-disabled", level, "boot", what, "enable the other unit too", (f"systemctl enable {DAEMON}",)
        )
    else:
        yield Problem("boot-units-enabled", OK, "boot", "the gate is loaded before the network, and the daemon starts")


def _doors(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:_MAX_LISTED])
    return f"{'door' if len(names) == 1 else 'doors'} {shown}{', …' if names[_MAX_LISTED:] else ''}"


def _limits(configuration: Configuration, facts: Facts) -> Iterator[Problem]:
    gate = configuration.gate
    if gate.capacity is None:
        capacity = default_capacity(facts.memory_bytes, len(_automaton(configuration).machines), DEFAULT_CAPACITY)
        if capacity < DEFAULT_CAPACITY:
            what = (
                f"with {facts.memory_bytes >> 20:,} MiB the gate tracks {capacity:,} sources per family, not "
                f"{DEFAULT_CAPACITY:,}: a smaller flood of forged knocks can displace knocks in progress"
            )
            yield Problem("memory-use", OK, "memory", what, "set `capacity` in [gate] to change it")
    if facts.conntrack is not None:
        now, most = facts.conntrack
        if now > most * _CONNTRACK_LIMIT:
            what = f"conntrack holds {now:,} of {most:,} connections: when it is full, new ones are dropped"
            command = f"sysctl -w net.netfilter.nf_conntrack_max={most * 2}"
            yield Problem("conntrack-nearly-full", WARNING, "conntrack", what, "raise the limit", (command,))
