"""The examples of the commands that put a gate in force, typed without a gate or with another one."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from doorward.lab.topology import Lab
from doorward.model import Element, Port
from tests.support.consoles import Console
from tests.support.daemon import RunningDaemon, Visitor, running_daemon
from tests.support.examples import Seat, assert_printed, name_hosts
from tests.support.service_user import for_the_user, open_folder, service_user, wrapped

pytestmark = pytest.mark.netns("nft", "knock", "unshare")

SSH = """
[gate]
mode = "guard"
[doors.ssh]
knock = ["7000/tcp", "8000/udp", "9000/tcp"]
opens = ["22/tcp"]
"""
TWO = SSH + '[doors.db]\nopens = ["5432/tcp"]\n'
FIREWALL = "table inet filter { chain input { type filter hook input priority filter; policy drop; }; }"
KNOCK = ("7000", "8000:udp", "9000")


@pytest.fixture
def guest(lab: Lab) -> Visitor:
    """Give somebody who comes by, with his address in the examples; sshd's place is taken."""
    name_hosts(lab)
    lab.server.start_greeter(22)
    return Visitor(lab.client, lab.client.ipv4, lab.server.ipv4)


@pytest.fixture
def stopped(lab: Lab) -> Iterator[RunningDaemon]:
    """Return what a daemon needs, the user `doorward` too; it does not run yet."""
    with ExitStack() as stack:
        folder = stack.enter_context(open_folder())
        stack.enter_context(service_user(lab.server))
        daemon = RunningDaemon(lab.server, folder, TWO)
        for_the_user(daemon)
        stack.callback(daemon.close)
        yield daemon


@pytest.mark.console("docs/reference/commands.md", "doorward run")
def test_run(guest: Visitor, stopped: RunningDaemon, console: Console) -> None:
    (call,) = console
    starts, opens = call.printed.splitlines()
    seat = Seat(stopped.host, stopped.folder / "seat", stopped.env)
    seat.at = stopped.config.parent
    with seat.typing(call, *wrapped(stopped.folder / "hold")) as screen:
        assert_printed(starts, screen.line())
        guest.knock(*KNOCK)
        assert_printed(opens, screen.line())
        assert guest.gets_in()


@pytest.mark.console("docs/reference/commands.md", "doorward compile")
def test_compile(guest: Visitor, lab: Lab, console: Console, tmp_path: Path) -> None:
    """What is promised below the example holds too: it needs no daemon, and the kernel closes the door."""
    seat = Seat(lab.server, tmp_path)
    (seat.at / "doorward.toml").write_text(TWO.replace("[doors.db]", 'for = "3s"\n[doors.db]'))
    for call in console:
        seat.type(call)
    guest.knock(*KNOCK)
    assert guest.gets_in()
    daemon = RunningDaemon(lab.server, tmp_path / "none", "")
    daemon.await_end(Element(guest.source, Port.parse("22/tcp")))
    assert not guest.gets_in()
    daemon.close()


@pytest.mark.console("docs/reference/commands.md", "doorward apply", "doorward confirm")
def test_apply_and_confirm(guest: Visitor, lab: Lab, console: Console, tmp_path: Path) -> None:
    apply, confirm = console
    with running_daemon(lab.server, tmp_path, SSH) as daemon:
        seat = Seat(lab.server, tmp_path / "seat", daemon.env)
        (seat.at / "new.toml").write_text(TWO.replace("guard", "stealth"))
        seat.type(apply)
        guest.knock(*KNOCK)
        with guest.connect() as session:
            ends = (*session.getsockname(), *session.getpeername())
            seat.env["SSH_CONNECTION"] = " ".join(map(str, ends))
            seat.type(confirm)
        assert daemon.config.read_text() == (seat.at / "new.toml").read_text()


@pytest.mark.console("docs/reference/commands.md", "doorward off", "doorward on")
def test_off_and_on(guest: Visitor, lab: Lab, console: Console, tmp_path: Path) -> None:
    off, on = console
    with running_daemon(lab.server, tmp_path, SSH) as daemon:
        seat = Seat(lab.server, tmp_path / "seat", daemon.env)
        assert not guest.gets_in()
        seat.type(off)
        assert guest.gets_in()
        seat.type(on)


@pytest.mark.console("docs/locked-out.md")
def test_locked_out(guest: Visitor, stopped: RunningDaemon, console: Console) -> None:
    off, check, on, run, delete = console
    stopped.wrapper = wrapped(stopped.folder / "hold")
    stopped.start()
    seat = Seat(stopped.host, stopped.folder / "seat", stopped.env)
    assert not guest.gets_in()
    for call in (off, check, on):
        seat.type(call)
    assert guest.gets_in()
    seat.meant["doorward run"] = f"doorward run -c {stopped.config}"
    with seat.typing(run, *stopped.wrapper) as screen:
        assert "on trial for 2m" in screen.line()
        assert not guest.gets_in()
    stopped.start()
    stopped.end(signal.SIGKILL)
    assert not guest.gets_in()
    seat.type(delete)
    assert guest.gets_in()


@pytest.mark.console("docs/reference/commands.md", "doorward doctor")
def test_doctor(guest: Visitor, lab: Lab, console: Console, tmp_path: Path) -> None:
    """Its advice is taken: with the mark, and the rules that it prints, the knock opens; before, it did not."""
    (call,) = console
    lab.server.run(["nft", "-f", "-"], stdin=FIREWALL)
    with running_daemon(lab.server, tmp_path, SSH) as daemon:
        seat = Seat(lab.server, tmp_path / "seat", daemon.env)
        printed = seat.type(call, status=1)
        guest.knock(*KNOCK)
        daemon.event("opened")
        assert not guest.gets_in()
        for line in printed.splitlines():
            if line.startswith("      # nft "):
                seat.host.run(line.split()[1:])
        daemon.reload(SSH.replace('"guard"', '"guard"\naccept_mark = "0x1000/0x1000"'))
        guest.knock(*KNOCK)
        daemon.event("prolonged")
        assert guest.gets_in()
