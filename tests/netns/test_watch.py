"""`doorward watch` with a real daemon and real knocks, as lines and as live view."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest
from textual.app import App
from textual.pilot import Pilot

from doorward.lab.topology import Lab
from doorward.watch.tui import WatchApp
from tests.support.daemon import DOORWARD, PATIENCE_S, RunningDaemon, Visitors, running_daemon

pytestmark = pytest.mark.netns("knock", "nft")

CONFIG = """
[gate]
mode = "guard"
[doors.ssh]
knock = ["7001/tcp", "7002/udp", "7003/tcp"]
opens = ["22/tcp"]
for = "1m"
[doors.web]
opens = ["8080/tcp"]
"""
SEQUENCE = ("7001", "7002:udp", "7003")


@pytest.fixture
def daemon(direct_lab: Lab, tmp_path: Path) -> Iterator[RunningDaemon]:
    with running_daemon(direct_lab.server, tmp_path, CONFIG) as running:
        yield running


@contextmanager
def watching(daemon: RunningDaemon, *words: str) -> Iterator[subprocess.Popen[str]]:
    """Run `doorward watch` until the end of the block."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = daemon.host.popen([*DOORWARD, "watch", *words], env=daemon.env, **pipes)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def lines_of(stream: IO[str] | None, count: int) -> list[str]:
    """Read lines, without the time before each."""
    assert stream is not None
    return [stream.readline().rstrip().split(" ", 1)[-1] for _ in range(count)]


def test_plain_lines_until_the_daemon_stops(direct_lab: Lab, daemon: RunningDaemon) -> None:
    visitor = Visitors(direct_lab).fresh(4)
    daemon.run("open", "web", "192.0.2.9")
    with watching(daemon) as process:
        assert lines_of(process.stdout, 1) == ["2 doors, mode guard; 1 open"]
        visitor.knock(*SEQUENCE)
        assert lines_of(process.stdout, 1) == [f"opened ssh to {visitor} for 1m (22/tcp), by knock"]
        daemon.run("open", "ssh", str(visitor), "--for", "1h")
        daemon.run("close", "ssh", str(visitor))
        assert lines_of(process.stdout, 2) == [
            f"prolonged ssh for {visitor} to 1h more, by hand",
            f"closed ssh to {visitor}, by hand",
        ]
        visitor.knock(*range(7500, 7560))
        (refused,) = lines_of(process.stdout, 1)
        assert refused.startswith(f"refused {visitor}: rate limit exceeded")
        daemon.end()
        assert lines_of(process.stdout, 1) == ["stopping; openings expire by themselves"]
        assert process.wait(PATIENCE_S) == 1
        assert lines_of(process.stderr, 1) == ["the daemon ended"]


def test_json_lines_until_ctrl_c(direct_lab: Lab, daemon: RunningDaemon) -> None:
    visitor = Visitors(direct_lab).fresh(6)
    with watching(daemon, "--json") as process:
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        assert (first["event"], first["openings"]) == ("status", [])
        visitor.knock(*SEQUENCE)
        event = json.loads(process.stdout.readline())
        assert {"event": "opened", "door": "ssh", "address": str(visitor), "by": "knock"}.items() <= event.items()
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_S) == 0


def test_watch_without_daemon(direct_lab: Lab, daemon: RunningDaemon) -> None:
    daemon.end()
    answer = daemon.run("watch", check=False)
    assert answer.returncode == 1
    assert "no daemon answers" in answer.stderr


def until(pilot: Pilot[int], holds: Callable[[], object]) -> Coroutine[None, None, None]:
    """Run the view until `holds` is true; fail after `PATIENCE_S`."""

    async def wait() -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        while not holds():
            assert time.monotonic() < deadline_s, screen(pilot.app)
            await pilot.pause(0.05)

    return wait()


def screen(app: App[int]) -> str:
    """Return the text on the screen."""
    lines = app.screen._compositor.render_strips()
    return "\n".join("".join(segment.text for segment in strip) for strip in lines)


def viewing(daemon: RunningDaemon, story: Callable[[Pilot[int]], Coroutine[None, None, None]]) -> None:
    """Run the live view on a screen of 80x24 with a story."""

    async def play() -> None:
        async with WatchApp(daemon.control).run_test(size=(80, 24), notifications=True) as pilot:
            await until(pilot, lambda: "mode guard" in screen(pilot.app))
            await story(pilot)

    asyncio.run(play())


def test_view_shows_openings_and_keys_change_them(direct_lab: Lab, daemon: RunningDaemon) -> None:
    one, other = Visitors(direct_lab).crowd(4, 2)

    async def story(pilot: Pilot[int]) -> None:
        def line(part: str) -> str:
            lines = [" ".join(line.split()) for line in screen(pilot.app).splitlines()]
            return next((line for line in lines if part in line), "")

        await until(pilot, lambda: "8080/tcp" in line("web"))  # a closed door
        other.knock(*SEQUENCE[:2])
        one.knock(*SEQUENCE)
        await until(pilot, lambda: "knock" in line(f"ssh {one} "))
        await until(pilot, lambda: line("sequences").endswith(" 1"))
        if daemon.ask("stats")["sets"]["open4"]["elements"] is not None:
            await until(pilot, lambda: "2 knocks" in line(str(other)))
        left = line(f"ssh {one} ")
        await until(pilot, lambda: line(f"ssh {one} ") not in (left, ""))  # it counts down

        await pilot.press("p")
        await until(pilot, lambda: "how long" in screen(pilot.app))
        await pilot.press("end", "0", "enter")  # "1h0" is invalid
        await until(pilot, lambda: "invalid duration" in screen(pilot.app))
        await pilot.press("backspace", "enter")
        daemon.event("prolonged", address=str(one), by="hand")
        await until(pilot, lambda: "59m" in line(f"ssh {one} "))

        await pilot.press("c", "escape")
        await pilot.press("c")
        await until(pilot, lambda: f"Close ssh to {one}?" in screen(pilot.app))
        await pilot.press("enter")
        daemon.event("closed", address=str(one), by="hand")
        await until(pilot, lambda: not line(f"ssh {one} "))
        await pilot.press("c")
        await until(pilot, lambda: "select an open door first" in screen(pilot.app))

        one.knock(*SEQUENCE)
        await until(pilot, lambda: line(f"ssh {one} "))
        await pilot.press("b")
        await until(pilot, lambda: "Ban which ADDRESS" in screen(pilot.app) and f"{one} 1h" in screen(pilot.app))
        await pilot.press("enter")
        daemon.event("banned", address=str(one))
        await until(pilot, lambda: not line(f"ssh {one} ") and line(f"banned {one} for 1h"))
        await until(pilot, lambda: line(f"{one} 59m") or line(f"{one} 1h00"))  # in the panel of bans
        await pilot.press("u")
        await until(pilot, lambda: "End the ban of which ADDRESS?" in screen(pilot.app))
        await pilot.press("enter")
        daemon.event("unbanned", address=str(one))
        await until(pilot, lambda: not line(f"{one} 59m") and not line(f"{one} 1h00"))

        await pilot.press("question_mark")
        await until(pilot, lambda: "open the door to an address" in screen(pilot.app))
        await pilot.press("escape", "up", "up", "o")
        await until(pilot, lambda: "Open ssh to which ADDRESS" in screen(pilot.app))
        await pilot.press(*"nowhere", "enter")
        await until(pilot, lambda: "not appear to be an IPv4 or IPv6 address" in screen(pilot.app))
        await pilot.press("ctrl+u", *f"{other} 20m", "enter")
        daemon.event("opened", address=str(other), by="hand")
        await until(pilot, lambda: "hand" in line(f"ssh {other} "))
        daemon.run("close", "ssh", str(other))
        await pilot.press("q")

    viewing(daemon, story)
    assert daemon.openings() == []


def test_view_survives_daemon_restart_and_reload(daemon: RunningDaemon) -> None:
    async def story(pilot: Pilot[int]) -> None:
        def summary() -> str:
            return screen(pilot.app).splitlines()[0]

        daemon.run("open", "web", "192.0.2.9")
        await until(pilot, lambda: "192.0.2.9" in screen(pilot.app))
        daemon.end()
        await until(pilot, lambda: "no daemon" in summary())
        daemon.start()
        await until(pilot, lambda: "2 doors, mode guard · 1 open" in summary())
        daemon.reload(CONFIG + '[doors.extra]\nknock = ["7101/tcp", "7102/tcp"]\nopens = ["23/tcp"]\n')
        await until(pilot, lambda: "23/tcp" in screen(pilot.app))
        daemon.run("close", "web", "192.0.2.9")
        await until(pilot, lambda: "0 open" in summary())

    viewing(daemon, story)


def test_view_shows_errors_of_the_daemon(daemon: RunningDaemon) -> None:
    daemon.run("open", "web", "192.0.2.9")

    async def story(pilot: Pilot[int]) -> None:
        await until(pilot, lambda: "192.0.2.9" in screen(pilot.app))
        await pilot.press("p")
        await until(pilot, lambda: "how long" in screen(pilot.app))
        await pilot.press("end", "backspace", "backspace", "9", "9", "9", "d", "enter")
        await until(pilot, lambda: "too long" in screen(pilot.app))

    viewing(daemon, story)
