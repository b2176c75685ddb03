"""`doorward off` removes the gate and keeps it away, whatever the daemon does; `doorward on` ends that."""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from doorward.daemon.control_client import answering
from doorward.lab.topology import Lab
from doorward.nftables.libnftables import NftFirewall
from tests.support.daemon import DOORWARD, PATIENCE_S, RunningDaemon, Visitors, running_daemon, seconds_of
from tests.support.service_user import children_of

pytestmark = pytest.mark.netns("nft", "knock", "setpriv")

CONFIG = """
[gate]
mode = "guard"
[doors.ssh]
knock = ["7001/tcp", "7002/tcp", "7003/tcp"]
opens = ["22/tcp"]
for = "10m"
on_close = ["/usr/bin/touch", "{hook}"]
"""
KNOCK = ("7001", "7002", "7003")
LOAD = (
    "import os, sys; from pathlib import Path; from doorward.daemon import off_switch, ruleset_loader\n"
    "begin, is_off = off_switch.refuse_if_off, off_switch.is_off\n"
    "def late():\n"
    "    begin(); off_switch.switch_off(); ruleset_loader.NftFirewall().unload(); off_switch.refuse_if_off = begin\n"
    "off_switch.refuse_if_off = late\n"
    "ruleset_loader.load_file(Path(sys.argv[1]), {}, Path(sys.argv[2]))\n"
)


class Gate:
    """A daemon with one opening, whose end would run a hook, and a visitor who has not knocked."""

    def __init__(self, daemon: RunningDaemon, visitors: Visitors, hook: Path) -> None:
        self.daemon, self.hook = daemon, hook
        self.guest, self.stranger = visitors.fresh(4), visitors.fresh(4)
        self.guest.knock(*KNOCK)
        daemon.event("opened", address=str(self.guest))
        self.new = daemon.folder / "new.toml"
        self.new.write_text(daemon.config.read_text().replace("7003", "7009"))

    def table(self) -> bool:
        return bool(self.daemon.host.call(NftFirewall().existing))

    def marker(self) -> Path:
        return self.daemon.config.with_name("off")

    def rulesets(self) -> list[str]:
        return [path.name for path in self.daemon.state.glob("*.nft*")]

    def is_off(self) -> bool:
        """Return whether nothing is hidden, nothing is saved for the next boot, and no hook ran."""
        return (
            self.marker().exists()
            and not self.table()
            and self.rulesets() == []
            and self.stranger.gets_in()
            and not self.hook.exists()
        )


@pytest.fixture
def gate(direct_lab: Lab, tmp_path: Path) -> Iterator[Gate]:
    direct_lab.server.start_greeter(22)
    hook = tmp_path / "hook"
    with running_daemon(direct_lab.server, tmp_path, CONFIG.format(hook=hook)) as daemon:
        yield Gate(daemon, Visitors(direct_lab), hook)


def waiting_for_the_deadline(gate: Gate, trial: str = "2s") -> list[int]:
    """Return the descriptors of the daemon's children that are no runner and no reader: the rollback watchdog."""
    before = set(children_of(gate.daemon.process.pid))
    gate.daemon.run("apply", gate.new, "--trial", trial)
    (watchdog,) = set(children_of(gate.daemon.process.pid)) - before
    return [os.pidfd_open(watchdog)]


def await_end(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        assert select.select([descriptor], [], [], PATIENCE_S)[0]
        os.close(descriptor)


def test_off_ends_a_daemon_that_runs_and_on_brings_the_gate_back(gate: Gate) -> None:
    daemon = gate.daemon
    assert not gate.stranger.gets_in()
    assert "doorward is off" in daemon.run("off").stdout
    assert daemon.process.wait(PATIENCE_S) == 0  # which systemd takes for no failure
    assert gate.is_off()
    status = daemon.run("status", check=False)
    assert (status.returncode, "off since" in status.stdout) == (1, True)
    shown = daemon.run("status", "--json", check=False)
    assert (shown.returncode, seconds_of(json.loads(shown.stdout)["off_since"]) > 0) == (1, True)
    doctor = daemon.run("doctor", "--json", check=False)
    findings = json.loads(doctor.stdout)["findings"]
    assert (doctor.returncode, findings[0]["level"], findings[0]["commands"]) == (1, "error", ["doorward on"])
    daemon.config.write_text("[gate")
    doctor = daemon.run("doctor", check=False)  # which cannot look further, and says this all the same
    assert (doctor.returncode, "doorward on" in doctor.stdout) == (2, True)
    daemon.config.write_text(CONFIG.format(hook=gate.hook))
    since = gate.marker().stat().st_mtime_ns
    assert daemon.run("off").returncode == 0  # again
    assert gate.marker().stat().st_mtime_ns == since
    asked = daemon.run("open", "ssh", "192.0.2.9", check=False)
    assert (asked.returncode, "`doorward on`" in asked.stderr) == (1, True)
    again = daemon.run("run", check=False)
    assert (again.returncode, "switched off" in again.stderr) == (1, True)
    assert gate.is_off()

    assert "doorward run" in daemon.run("on").stdout
    assert daemon.run("on", check=False).returncode == 1  # it is on
    daemon.start()
    assert not gate.stranger.gets_in()
    assert [opening["address"] for opening in daemon.openings()] == [str(gate.guest)]
    assert gate.guest.gets_in()  # the ledger was kept
    assert not gate.hook.exists()


def test_off_works_with_the_daemon_dead_and_leaves_no_gate_to_a_load_that_is_under_way(gate: Gate) -> None:
    """In the second part doorward is switched off between the look of a process that loads and its commit."""
    daemon = gate.daemon
    daemon.end(signal.SIGKILL)
    assert gate.table()
    daemon.run("off")
    assert gate.is_off()
    daemon.run("on")
    words = [sys.executable, "-c", LOAD, daemon.config, daemon.state / "gate.nft"]
    done = daemon.host.run(words, env=daemon.env, check=False)
    assert done.stderr.splitlines()[-1].startswith("doorward.daemon.off_switch.SwitchedOff")
    assert not gate.table()


def test_a_daemon_that_hangs_loads_nothing_when_it_goes_on(gate: Gate) -> None:
    daemon = gate.daemon
    watchdog = waiting_for_the_deadline(gate)
    daemon.process.send_signal(signal.SIGSTOP)
    off = daemon.run("off")
    assert f"process {daemon.process.pid} " in off.stderr
    assert gate.is_off()
    await_end(watchdog)  # whatever the daemon does
    daemon.process.send_signal(signal.SIGCONT)
    assert daemon.process.wait(PATIENCE_S) == 0
    assert gate.is_off()


def test_off_during_a_trial_ends_the_trial_and_its_watchdog(gate: Gate) -> None:
    watchdog = waiting_for_the_deadline(gate)
    gate.daemon.run("off")
    assert gate.daemon.process.wait(PATIENCE_S) == 0
    await_end(watchdog)
    assert gate.is_off()


def test_no_rollback_comes_after_off_where_the_daemon_was_killed_in_a_trial(gate: Gate) -> None:
    until_s = time.monotonic() + 20
    watchdog = waiting_for_the_deadline(gate, "20s")
    gate.daemon.process.kill()
    gate.daemon.process.wait(PATIENCE_S)
    gate.daemon.run("off")
    await_end(watchdog)
    assert time.monotonic() < until_s  # before its deadline
    assert gate.is_off()


def test_off_is_roots_and_needs_no_disk(gate: Gate) -> None:
    as_nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
    for command in ("off", "on"):
        said = gate.daemon.host.run([*as_nobody, *DOORWARD, command], env=gate.daemon.env, check=False)
        assert (said.returncode, "for root" in said.stderr) == (2, True), said.stderr
    assert gate.table()
    assert answering(gate.daemon.control) == gate.daemon.process.pid
    assert not gate.marker().exists()
    # A disk that is full or read-only does not keep the gate there.
    read_only = ["unshare", "--mount", "sh", "-ec", f'mount --bind -o ro /usr {gate.marker().parent}; exec "$@"', "sh"]
    off = gate.daemon.host.run([*read_only, *DOORWARD, "off"], env=gate.daemon.env, check=False)
    assert (off.returncode, "repeat `doorward off`" in off.stderr) == (2, True)
    assert not gate.table()
    assert gate.stranger.gets_in()
