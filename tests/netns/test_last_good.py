"""A daemon whose file is wrong starts with the last configuration that was in force, if nobody but root wrote it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from doorward.lab.topology import Lab
from tests.support.daemon import DOORWARD, RunningDaemon, Visitors, until
from tests.support.service_user import GROUP, USER, for_the_user, open_folder, service_user, status_of, wrapped
from tests.support.signed import Signed, Signer, send

pytestmark = pytest.mark.netns("nft", "knock", "unshare")

CONFIG = """
[gate]
mode = "guard"
on_refuse = ["/bin/sh", "-c", "echo refuse >> {said}"]
[signed]
[doors.ssh]
knock = ["7001/tcp", "7002/tcp"]
opens = ["22/tcp"]
for = "1s"
on_open = ["/bin/sh", "-c", "echo open >> {said}"]
on_close = ["/bin/sh", "-c", "echo close >> {said}"]
[doors.web]
knock = ["7101/tcp", "7102/tcp"]
opens = ["80/tcp"]
"""
SSH, WEB = ("7001", "7002"), ("7101", "7102")


class Site:
    """A daemon of the user `doorward`, started by root, which has run once with a good file."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab, self.said = lab, folder / "said"
        self.said.touch()
        self.good = CONFIG.format(said=self.said)
        self.daemon = RunningDaemon(lab.server, folder, self.good)
        for_the_user(self.daemon)
        self.revoked, self.laptop = Signer("revoked"), Signer("laptop")
        self.signed = Signed(self.daemon.config.parent)
        self.authorize(self.revoked)
        self.daemon.wrapper = wrapped(folder / "hold")
        self.copy = self.daemon.config.with_name("doorward.toml.last")
        self.visitors = Visitors(lab)

    def await_text(self, path: Path, text: str) -> None:
        """Wait until root's process has written a file, which no event reports."""
        until(lambda: path.exists() and path.read_text() == text, lambda: self.daemon.lines)

    def run(self) -> tuple[int, str]:
        """Start the daemon where it should refuse; return its status and what it writes."""
        words = [*self.daemon.wrapper, "timeout", "10", *DOORWARD, "run"]
        done = self.daemon.host.run(words, env=self.daemon.env, check=False)
        return done.returncode, done.stderr

    def authorize(self, signer: Signer) -> None:
        """Let one key open doors, in a file that the daemon's user can read."""
        self.signed.authorize(signer.line)
        for path in (self.signed.key_file, self.signed.keys_file):
            os.chown(path, 0, GROUP)
            path.chmod(0o640)

    def opens(self, knock: tuple[str, str], port: int) -> bool:
        visitor = self.visitors.fresh(4)
        visitor.knock(*knock)
        return visitor.gets_in(port)

    def send(self, signer: Signer) -> None:
        visitor = self.visitors.fresh(4)
        send(self.lab.client, visitor.source, self.lab.server.ipv4, signer.packet(self.signed.server))


@pytest.fixture
def site(direct_lab: Lab) -> Iterator[Site]:
    for port in (22, 80):
        direct_lab.server.start_greeter(port)
    with ExitStack() as stack:
        folder = stack.enter_context(open_folder())
        stack.enter_context(service_user(direct_lab.server))
        site = Site(direct_lab, folder)
        stack.callback(site.daemon.close)
        site.daemon.start()
        site.await_text(site.copy, site.good)
        yield site


def test_a_file_that_is_wrong_is_replaced_by_the_last_one_that_was_in_force(site: Site) -> None:
    daemon, guest = site.daemon, site.visitors.fresh(4)
    late, stays = site.visitors.crowd(4, 2)
    daemon.run("open", "ssh", stays, "--for", "10m")
    daemon.run("open", "web", stays, "--for", "10m")
    guest.knock(*SSH)
    site.await_text(site.said, "open\nopen\n")
    daemon.end()
    late.knock(*WEB)
    assert late.gets_in(80)
    daemon.await_end(guest.element())  # so that its on_close is owed
    wrong = site.good[: site.good.index("[doors.web]")].replace("guard", "gaurd")
    daemon.config.write_text(wrong)
    site.authorize(site.laptop)

    daemon.start()
    assert status_of(daemon.process.pid)["Uid"].split()[0] == str(USER)
    assert [daemon.message(part)["level"] for part in ("gaurd", "Hooks ")] == ["error"] * 2
    daemon.message("accepting signed knocks")
    status = daemon.run("status", check=False)
    assert (status.returncode, f"{daemon.config}:3: " in status.stdout) == (1, True)
    status = daemon.run("status", "--json", check=False)
    assert (status.returncode, "gaurd" in json.loads(status.stdout)["last_good"]) == (1, True)
    doctor = daemon.run("doctor", check=False)
    assert (doctor.returncode, doctor.stdout.startswith("error: daemon, process ")) == (2, True)

    assert site.opens(SSH, 22)
    assert not site.opens(WEB, 80)  # the door is gone, and its port still hidden
    assert (stays.gets_in(22), stays.gets_in(80), late.gets_in(80)) == (True, False, False)
    said = daemon.run("open", "web", "192.0.2.7", check=False)
    assert said.returncode == 2
    site.send(site.revoked)  # the keys are today's
    daemon.event("refused", door="ssh")
    site.send(site.laptop)
    daemon.event("opened", by="key laptop")
    daemon.process.send_signal(signal.SIGHUP)
    daemon.message("was not reloaded")
    daemon.await_notice("READY=1")
    assert (site.said.read_text(), site.copy.read_text()) == ("open\nopen\n", site.good)
    assert [record["closed_by"] for record in daemon.log() if record["address"] == str(guest)] == [None]

    repaired = site.good.replace("7102", "7109")
    daemon.reload(repaired)
    site.await_text(site.said, "open\nopen\nclose\n")  # what was owed, and nothing for what was opened meanwhile
    site.await_text(site.copy, repaired)
    assert daemon.run("status").returncode == 0
    assert site.opens(("7101", "7109"), 80)


def test_a_copy_that_anybody_but_root_could_have_written_is_never_read(site: Site) -> None:
    daemon = site.daemon
    daemon.end()
    daemon.config.write_text(site.good.replace("guard", "gaurd"))
    folder = site.copy.parent
    for path, change, back in (
        (site.copy, lambda path: os.chown(path, USER, GROUP), lambda path: os.chown(path, 0, GROUP)),
        (site.copy, lambda path: path.chmod(0o660), lambda path: path.chmod(0o640)),
        (folder, lambda path: path.chmod(0o775), lambda path: path.chmod(0o755)),
        (folder.parent, lambda path: os.chown(path, USER, GROUP), lambda path: os.chown(path, 0, 0)),
    ):
        change(path)
        status, said = site.run()
        assert (status, "the last good configuration is not used: " in said) == (2, True), said
        back(path)
    site.copy.rename(folder / "stored")
    (site.copy).symlink_to(daemon.state / "evil")
    (daemon.state / "evil").write_text(site.good)
    assert site.run()[0] == 2
    (folder / "stored").replace(site.copy)
    # What the host lacks, and no file at all, are no reason to stay away either.
    daemon.config.write_text(site.good.replace("[gate]", '[gate]\ncontrol_group = "nosuchgroup"'))
    daemon.start()
    daemon.message("nosuchgroup")
    daemon.end()
    daemon.config.unlink()
    daemon.start("--log-format", "json")
    daemon.message("no such file")
    daemon.end()
    assert site.copy.read_text() == site.good
