"""A gate on trial: kept only if somebody gets in through it and says so, and otherwise taken back, whatever happens."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from doorward.lab.topology import Lab
from tests.support.daemon import DOORWARD, PATIENCE_S, RunningDaemon, Visitors, echoes, running_daemon, until

pytestmark = pytest.mark.netns("nft", "knock", "unshare")

OLD = """
[gate]
mode = "guard"
[doors.ssh]
knock = ["7001/tcp", "7002/tcp", "7003/tcp"]
opens = ["22/tcp"]
for = "10m"
"""
NEW = OLD.replace("7003/tcp", "7009/tcp")
OLD_KNOCK, NEW_KNOCK = ("7001", "7002", "7003"), ("7001", "7002", "7009")


class Site:
    """A daemon with OLD in force, and a file with NEW beside it; one session is established."""

    def __init__(self, lab: Lab, daemon: RunningDaemon, new: Path) -> None:
        self.daemon, self.new, self.visitors = daemon, new, Visitors(lab)
        new.write_text(NEW)

    def opens_to(self, *knock: str) -> bool:
        """Tell whether this knock lets somebody new in."""
        visitor = self.visitors.fresh(4)
        visitor.knock(*knock)
        return visitor.gets_in()

    def session(self, *knock: str) -> socket.socket:
        """Log in by a knock."""
        return self.visitors.fresh(4).knock_and_connect(*knock)

    def confirm(self, session: socket.socket | None) -> subprocess.CompletedProcess[str]:
        """Run `doorward confirm` in this session; None: on the console, where no ancestor tells of a connection."""
        console = ["unshare", "--pid", "--fork", "--mount-proc", "env", "-u", "SSH_CONNECTION"]
        if session is None:
            return self.daemon.host.run([*console, *DOORWARD, "confirm"], env=self.daemon.env, check=False)
        (source, source_port), (server, port) = session.getsockname()[:2], session.getpeername()[:2]
        tells = {"SSH_CONNECTION": f"{source} {source_port} {server} {port}"}
        return self.daemon.host.run([*DOORWARD, "confirm"], env={**self.daemon.env, **tells}, check=False)

    def is_as_before(self) -> bool:
        """Tell whether the old gate is in force and nothing on disk has changed."""
        return self.opens_to(*OLD_KNOCK) and not self.opens_to(*NEW_KNOCK) and self.daemon.config.read_text() == OLD

    def trial_file(self) -> Path:
        return self.daemon.state / "trial.nft"


@pytest.fixture
def site(direct_lab: Lab, tmp_path: Path) -> Iterator[Site]:
    direct_lab.server.start_greeter(22)
    with running_daemon(direct_lab.server, tmp_path, OLD) as running:
        yield Site(direct_lab, running, tmp_path / "new.toml")


def test_without_a_trial_the_file_is_installed(site: Site) -> None:
    config = site.daemon.config
    config.chmod(0o640)
    with closing(site.session(*OLD_KNOCK)) as session:
        said = site.daemon.run("apply", site.new).stdout
        assert said.startswith("~ door ssh: knock\nin force: 1 door, mode guard;")
        assert echoes(session)
    assert (config.read_text(), config.with_name("doorward.toml.before").read_text()) == (NEW, OLD)
    assert config.stat().st_mode & 0o777 == 0o640
    assert last_good(site) == (NEW, 0o640)
    assert not config.with_name("doorward.toml.new").exists()
    assert site.opens_to(*NEW_KNOCK)
    assert not site.opens_to(*OLD_KNOCK)
    site.daemon.reload(NEW)
    assert site.opens_to(*NEW_KNOCK)


def test_what_is_wrong_changes_nothing(site: Site) -> None:
    site.new.write_text(NEW.replace("guard", "gaurd"))
    said = site.daemon.run("apply", site.new, check=False)
    assert (said.returncode, f"{site.new}:3: " in said.stderr) == (2, True)
    said = site.daemon.run("apply", site.daemon.config, "--trial", "2m", check=False)
    assert (said.returncode, "the daemon's own file" in said.stderr) == (2, True)
    site.new.write_text(NEW.replace("[gate]", '[gate]\ncontrol_group = "no-such-group"'))
    said = site.daemon.run("apply", site.new, "--trial", "2m", check=False)
    assert (said.returncode, "no-such-group" in said.stderr) == (2, True)
    assert site.daemon.ask("status")["trial"] is None
    assert {path.name for path in site.daemon.config.parent.iterdir()} == {"doorward.toml", "doorward.toml.last"}
    assert site.is_as_before()
    said = site.daemon.run("confirm", check=False)
    assert (said.returncode, "no configuration is on trial" in said.stderr) == (1, True)


def test_unconfirmed_trial_is_rolled_back(site: Site) -> None:
    kept = (site.daemon.state / "gate.nft").read_text()
    with closing(site.session(*OLD_KNOCK)) as session:
        before = site.daemon.elements()
        said = site.daemon.run("apply", site.new, "--trial", "2s").stdout
        assert said.startswith("~ door ssh: knock\non trial for 2s")
        assert "ON TRIAL: this configuration" in site.daemon.run("status").stdout
        assert echoes(session)
        assert site.opens_to(*NEW_KNOCK)
        assert (site.daemon.state / "gate.nft").read_text() == kept
        site.daemon.message("not confirmed in time")
        site.daemon.message("the end of the trial changed the gate; restored")
        assert echoes(session)
    assert before.keys() <= site.daemon.elements().keys()
    assert site.daemon.ask("status")["trial"] is None
    assert (site.daemon.state / "gate.nft").read_text() == kept
    assert site.is_as_before()
    site.daemon.host.run(["nft", "flush ruleset"])
    site.daemon.message("nft (process")
    assert site.is_as_before()


def test_a_trial_that_is_confirmed_from_a_new_connection(site: Site) -> None:
    with closing(site.session(*OLD_KNOCK)) as old:
        site.daemon.run("apply", site.new, "--trial", "20s")
        assert last_good(site)[0] == OLD
        refused = site.confirm(old)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert "is older than the trial; open a new connection, through a knock" in refused.stderr
        with closing(site.session(*NEW_KNOCK)) as new:
            confirmed = site.confirm(new)
            assert (confirmed.returncode, confirmed.stdout) == (0, "confirmed: 1 door, mode guard\n")
            ended = new
        config = site.daemon.config
        assert (config.read_text(), config.with_name("doorward.toml.before").read_text()) == (NEW, OLD)
        assert last_good(site)[0] == NEW
        assert not site.trial_file().exists()
        assert site.daemon.ask("status")["trial"] is None
        assert ended.fileno() < 0
        site.daemon.host.run(["nft", "flush ruleset"])
        site.daemon.message("nft (process")
        assert site.opens_to(*NEW_KNOCK)
        assert echoes(old)
    site.daemon.end()
    site.daemon.start()
    assert site.opens_to(*NEW_KNOCK)


def test_connection_that_is_not_established_proves_nothing(site: Site) -> None:
    site.daemon.run("apply", site.new, "--trial", "20s")
    tells = {"SSH_CONNECTION": "192.0.2.99 40000 198.51.100.2 22"}
    said = site.daemon.host.run([*DOORWARD, "confirm"], env={**site.daemon.env, **tells}, check=False)
    assert (said.returncode, "is not established on this host" in said.stderr) == (1, True)


def test_on_the_console_it_can_be_confirmed_at_any_time(site: Site) -> None:
    site.daemon.run("apply", site.new, "--trial", "20s")
    confirmed = site.confirm(None)
    assert (confirmed.returncode, confirmed.stderr) == (0, "")
    assert site.daemon.config.read_text() == NEW
    assert site.opens_to(*NEW_KNOCK)


def test_what_was_prepared_must_be_what_is_on_trial(site: Site) -> None:
    site.daemon.run("apply", site.new, "--trial", "20s")
    site.daemon.config.with_name("doorward.toml.new").write_text(OLD)
    said = site.confirm(None)
    assert (said.returncode, "is no longer the file on trial" in said.stderr) == (2, True)
    assert site.daemon.ask("status")["trial"] is not None


def test_reloads_and_other_trials_wait(site: Site) -> None:
    site.daemon.run("apply", site.new, "--trial", "20s")
    site.daemon.process.send_signal(signal.SIGHUP)
    site.daemon.message("not reloaded: a gate is on trial")
    for words in (["--trial", "5s"], []):
        said = site.daemon.run("apply", site.new, *words, check=False)
        assert (said.returncode, "a configuration is on trial already" in said.stderr) == (1, True)
    assert site.opens_to(*NEW_KNOCK)
    assert site.confirm(None).returncode == 0  # what was prepared is still there


def test_a_flush_during_a_trial_puts_back_what_is_on_trial(site: Site) -> None:
    site.daemon.run("apply", site.new, "--trial", "5s")
    site.daemon.host.run(["nft", "flush ruleset"])
    site.daemon.message("nft (process")
    assert site.opens_to(*NEW_KNOCK)
    site.daemon.message("the end of the trial changed the gate; restored")
    assert site.is_as_before()


def test_a_daemon_that_ends_takes_its_trial_back(site: Site) -> None:
    with closing(site.session(*OLD_KNOCK)) as session:
        site.daemon.run("apply", site.new, "--trial", "60s")
        assert site.daemon.end() == 1
        site.daemon.message("the trial was not confirmed; the previous gate is restored")
        assert echoes(session)
    assert site.is_as_before()


def test_a_daemon_that_is_killed_in_a_trial(site: Site) -> None:
    with closing(site.session(*OLD_KNOCK)) as session:
        site.daemon.run("apply", site.new, "--trial", "2s")
        kill(site.daemon)
        assert site.opens_to(*NEW_KNOCK)
        await_end_of_all(site)
        assert echoes(session)
    assert site.is_as_before()


def test_a_daemon_that_comes_again_has_its_own_file(site: Site) -> None:
    site.daemon.run("apply", site.new, "--trial", "2s")
    kill(site.daemon)
    site.daemon.start()
    assert site.is_as_before()
    site.daemon.host.run(["nft", "add rule inet doorward prerouting counter"])
    site.daemon.message("nft (process")
    time_of_trial_s = time.monotonic() + 2
    while time.monotonic() < time_of_trial_s:  # the keeper sees that a daemon runs, and leaves it alone
        assert site.opens_to(*OLD_KNOCK)
    assert not [event for event in site.daemon.events() if "python" in event.get("message", "")]


def last_good(site: Site) -> tuple[str, int]:
    """Return text and mode of the copy that root keeps of the last good configuration."""
    copy = site.daemon.config.with_name("doorward.toml.last")
    return copy.read_text(), copy.stat().st_mode & 0o777


def kill(daemon: RunningDaemon) -> None:
    """Kill the daemon, and do not wait for the end of its log: the keeper has that too."""
    daemon.process.kill()
    daemon.process.wait(PATIENCE_S)


def await_end_of_all(site: Site) -> None:
    """Wait until the keeper has ended: nothing runs on the host but the greeter."""
    until(lambda: all(b"banner_server" in words for pid in site.daemon.host.pids() if (words := words_of(pid))))


def words_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


# `doorward run --trial`


@pytest.fixture
def stopped(site: Site) -> Site:
    site.daemon.end()
    return site


def test_the_first_gate_on_trial_leaves_none(stopped: Site) -> None:
    daemon, visitor = stopped.daemon, stopped.visitors.fresh(4)
    daemon.host.run(["nft", "flush ruleset"])
    daemon.start("--trial", "2s")
    assert not visitor.gets_in()
    daemon.message("the gate is removed: none was loaded before")
    assert daemon.process.wait(PATIENCE_S) == 1
    assert daemon.ruleset() == ""
    assert visitor.gets_in()


def test_a_gate_that_stood_is_back_after_a_run_on_trial(stopped: Site) -> None:
    daemon = stopped.daemon
    daemon.config.write_text(NEW)
    daemon.start("--trial", "2s")
    assert stopped.opens_to(*NEW_KNOCK)
    daemon.message("the previous gate is restored")
    assert daemon.process.wait(PATIENCE_S) == 1
    assert stopped.opens_to(*OLD_KNOCK)
    assert not stopped.opens_to(*NEW_KNOCK)


def test_a_run_on_trial_that_is_confirmed_goes_on(stopped: Site) -> None:
    daemon = stopped.daemon
    daemon.config.write_text(NEW)
    daemon.start("--trial", "20s")
    assert "knock" in stopped.daemon.run("status").stdout
    with closing(stopped.session(*NEW_KNOCK)) as session:
        assert stopped.confirm(session).returncode == 0
    assert not stopped.trial_file().exists()
    daemon.end(signal.SIGKILL)
    assert stopped.opens_to(*NEW_KNOCK)
    assert daemon.config.read_text() == NEW
    assert not daemon.config.with_name("doorward.toml.before").exists()


@pytest.mark.parametrize("stood", [True, False])
def test_a_run_on_trial_that_is_killed(stopped: Site, stood: bool) -> None:
    daemon = stopped.daemon
    daemon.config.write_text(NEW)
    if not stood:
        daemon.host.run(["nft", "flush ruleset"])
    daemon.start("--trial", "2s")
    kill(daemon)
    assert stopped.opens_to(*NEW_KNOCK)
    await_end_of_all(stopped)
    if stood:
        assert stopped.opens_to(*OLD_KNOCK)
        assert not stopped.opens_to(*NEW_KNOCK)
    else:
        assert daemon.ruleset() == ""


def test_a_gate_without_a_copy_cannot_be_put_on_trial(stopped: Site) -> None:
    (stopped.daemon.state / "gate.nft").unlink()
    said = stopped.daemon.run("run", "--trial", "2s", check=False)
    assert (said.returncode, "has no copy to go back to" in said.stderr) == (2, True)
    assert stopped.opens_to(*OLD_KNOCK)
