"""The process that runs commands reads them from the configuration itself; a request may only have it do so."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from doorward.config.files import read
from doorward.daemon import hook_runner
from doorward.daemon.hook_runner import HookRun
from doorward.daemon.hooks import REFUSALS_A_MINUTE, HookQueue
from doorward.daemon.log import Log
from doorward.errors import MalformedError
from doorward.kernel.event_loop import EventLoop

HERE = ip_address("192.0.2.7")


class Site:
    """A hook queue with a configuration to edit, and a log to read."""

    def __init__(self, folder: Path) -> None:
        self.config = folder / "doorward.toml"
        self.stream = io.StringIO()
        self.write("nothing")
        self.loop = EventLoop()
        self.queue = HookQueue(self.loop, Log("json", self.stream), self.config, folder / "lock")

    def write(self, word: str) -> None:
        self.config.write_text(
            f'[doors.wake]\nknock = ["7001/tcp", "7002/tcp", "7003/tcp"]\non_open = ["/bin/echo", "{word} %IP%"]\n'
        )

    def load(self) -> None:
        """Do what the daemon does once it has loaded the file."""
        self.queue.configure(read(self.config).doors)

    def messages(self) -> list[str]:
        lines: list[dict[str, Any]] = [json.loads(line) for line in self.stream.getvalue().splitlines()]
        return [line["message"] for line in lines]

    def await_message(self, part: str) -> None:
        self.run_until(lambda: any(part in message for message in self.messages()))

    def run_until(self, is_reached: Callable[[], bool]) -> None:
        until_s = self.loop.now_s() + 15.0

        def look() -> None:
            if is_reached() or self.loop.now_s() > until_s:
                self.loop.stop()
            else:
                self.loop.at(self.loop.now_s() + 0.01, look)

        self.loop.at(self.loop.now_s(), look)
        self.loop.run()
        assert is_reached(), self.messages()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.queue.close()
    os.waitpid(site.queue._runner.pid, 0)
    site.loop.close()


def test_what_is_asked_before_a_reload_is_what_the_file_said_then(site: Site) -> None:
    site.write("first")
    site.load()
    site.queue.run(HookRun("wake", HERE, "open"))
    site.queue.run(HookRun("wake", HERE, "open"))  # waits for the one before
    site.await_message("output: first 192.0.2.7")
    site.write("second")
    site.load()
    site.queue.run(HookRun("wake", HERE, "open"))
    site.await_message("output: second 192.0.2.7")
    assert [message for message in site.messages() if "output" in message] == [
        f"wake: output: {word} 192.0.2.7" for word in ("first", "first", "second")
    ]


def test_a_file_that_cannot_be_read_any_more_changes_nothing(site: Site) -> None:
    site.write("first")
    site.load()
    site.queue.run(HookRun("wake", HERE, "open"))
    site.await_message("output: first 192.0.2.7")
    doors = read(site.config).doors
    site.write("second")
    site.config.chmod(0o602)
    site.queue.configure(doors)
    site.await_message("other users can write this file")
    site.await_message("the commands stay as they were")
    site.queue.run(HookRun("wake", ip_address("2001:db8::7"), "open"))
    site.await_message("output: first 2001:db8::7")


def test_a_door_without_commands_asks_for_nothing(site: Site) -> None:
    assert not site.queue.has_command(HookRun("wake", HERE, "open"))  # nothing was taken yet
    site.write("first")
    site.load()
    assert not site.queue.has_command(HookRun("wake", HERE, "close"))
    assert site.queue.has_command(HookRun("wake", HERE, "open"))
    site.queue.run(HookRun("wake", HERE, "open"))
    site.await_message("output: first 192.0.2.7")
    assert [message for message in site.messages() if "running" in message] == [
        "wake: running: /bin/echo first 192.0.2.7"
    ]


def test_refusals_run_their_command_a_few_times_a_minute(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.queue.run_on_refuse(HERE, "throttled")  # there is no command for it
    site.config.write_text(
        '[gate]\non_refuse = ["/bin/echo", "%IP% %REASON%"]\n[doors.ssh]\nknock = ["7001/tcp"]\nopens = ["22/tcp"]\n'
    )
    found = read(site.config)
    site.queue.configure(found.doors, found.gate.on_refuse)
    for _ in range(REFUSALS_A_MINUTE + 5):
        site.queue.run_on_refuse(HERE, "clock")
    now_s = site.loop.now_s()
    monkeypatch.setattr(site.loop, "now_s", lambda: now_s + 60)
    site.queue.run_on_refuse(HERE, "full")
    monkeypatch.undo()
    site.await_message("on_refuse: output: 192.0.2.7 full")
    outputs = [message for message in site.messages() if "output" in message]
    assert outputs == ["on_refuse: output: 192.0.2.7 clock"] * REFUSALS_A_MINUTE + ["on_refuse: output: 192.0.2.7 full"]
    assert any("on_refuse was not run for 5 more refusals" in message for message in site.messages())


@pytest.mark.parametrize("reason", ["two words", "%IP%", "$(id)", "ü", "a\n"])
def test_a_reason_is_one_word(site: Site, reason: str) -> None:
    site.config.write_text(
        '[gate]\non_refuse = ["/bin/echo", "%REASON%"]\n[doors.ssh]\nknock = ["7001/tcp"]\nopens = ["22/tcp"]\n'
    )
    found = read(site.config)
    site.queue.configure(found.doors, found.gate.on_refuse)
    hook_runner = site.queue._runner.pid
    site.queue.run_on_refuse(HERE, reason)
    site.await_message("the process that runs commands ended")  # a daemon that asks for that was taken over
    assert not any("output" in message for message in site.messages())
    with pytest.raises(ChildProcessError):
        os.waitpid(hook_runner, os.WNOHANG)


def test_while_hooks_are_off_nothing_runs_and_what_is_owed_stays_owed(site: Site) -> None:
    """Off, an opening that began before ends (owed), a new one begins and ends (nothing is owed), one begins again."""
    site.config.write_text(
        '[doors.ssh]\nknock = ["7001/tcp"]\nopens = ["22/tcp"]\n'
        'on_open = ["/bin/echo", "open %IP%"]\non_close = ["/bin/echo", "close %IP%"]\n'
    )
    done: list[str] = []

    def send(what: str, number: int) -> None:
        address = ip_address(f"192.0.2.{number}")
        site.queue.run(HookRun("ssh", address, what, lambda: done.append(f"{what} {number}")))

    text, doors = site.config.read_text(), read(site.config).doors
    site.load()
    for number in (1, 3):
        send("open", number)
        site.await_message(f"output: open 192.0.2.{number}")
    site.run_until(lambda: sorted(done) == ["open 1", "open 3"])
    done.clear()
    site.queue.turn_off()
    site.config.write_text("[gate")
    for what, number in (("close", 1), ("open", 2), ("close", 2), ("close", 3), ("open", 3), ("open", 4)):
        send(what, number)
    site.queue.run_on_refuse(HERE, "clock")
    assert done == ["close 2"]
    site.queue.configure(doors)  # as `doorward apply` does: the file is still wrong
    site.config.write_text(text)
    site.queue.turn_on()
    site.await_message("output: close 192.0.2.1")
    send("close", 4)
    send("close", 3)
    site.run_until(lambda: sorted(done) == ["close 1", "close 2", "close 3", "close 4"])
    outputs = [message.partition("output: ")[2] for message in site.messages() if "output" in message]
    assert outputs == [f"{what} 192.0.2.{n}" for what, n in (("open", 1), ("open", 3), ("close", 1), ("close", 3))]


SHELL = '[doors.wake]\nknock = ["7001/tcp"]\non_open = ["/bin/sh", "-c", "echo %IP%", "{mark}"]\n'
REQUESTS = [  # what only a daemon sends that somebody has taken over
    [1, "open", "wake", "fe80::1%;id>&2", ""],
    [1, "open", "wake", "192.0.2.7; id", ""],
    [1, "open", "wake", "192.0.2.7", "clock"],
    [1, "open", "wake", 3221225991, ""],
    [1, "open", ["wake"], "192.0.2.7", ""],
    [1, "run", "wake", "192.0.2.7", ""],
    ["1", "open", "wake", "192.0.2.7", ""],
    [1, "reload", "wake", "192.0.2.7", ""],
    [1, "open", "wake", "192.0.2.7"],
    {"number": 1, "what": "open"},
]


@pytest.mark.parametrize("request_", REQUESTS, ids=json.dumps)
def test_a_request_of_another_form_ends_the_command_runner(site: Site, request_: object) -> None:
    site.config.write_text(SHELL.format(mark="x"))
    site.load()
    site.queue.run(HookRun("wake", HERE, "open"))
    site.await_message("output: 192.0.2.7")
    before = site.queue._runner
    before._socket.send(json.dumps(request_).encode())
    site.await_message("the process that runs commands ended")
    assert [message for message in site.messages() if "output" in message] == ["wake: output: 192.0.2.7"]
    with pytest.raises(ChildProcessError):
        os.waitpid(before.pid, os.WNOHANG)


def test_a_door_that_is_not_in_its_own_table_runs_nothing(site: Site) -> None:
    site.write("first")
    site.load()
    for door in ("sesame", "/bin/sh", "wake ", ""):
        site.queue._runner.run(HookRun(door, HERE, "open"))
    site.queue.run(HookRun("wake", HERE, "open"))
    site.await_message("output: first 192.0.2.7")
    assert sum("running" in message for message in site.messages()) == 1


def test_a_scope_id_in_an_address_reaches_no_command(site: Site) -> None:
    site.config.write_text(SHELL.format(mark="y"))
    site.load()
    site.queue.run(HookRun("wake", ip_address("fe80::1%;id"), "open"))  # the daemon's own side writes it from bits
    site.await_message("output: fe80::1")
    assert not any("uid=" in message for message in site.messages())


@pytest.mark.parametrize("raw", [b"", b"[", b"[" * 60_000, b"\xff", b"null", b'"open"'])
def test_bytes_that_are_no_request(raw: bytes) -> None:
    with pytest.raises(MalformedError):
        hook_runner.parse_request(raw)
