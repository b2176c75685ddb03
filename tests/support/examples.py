"""Somebody at a host of a lab who types the documentation's examples; what is printed must be what the page shows."""

from __future__ import annotations

import os
import re
import select
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from ipaddress import IPv4Address
from pathlib import Path

from doorward.lab.namespace import NamespaceHost
from doorward.lab.topology import Lab
from tests.support.daemon import DOORWARD, PATIENCE_S
from tests.support.documents import Call
from tests.support.shown import is_shown

CLIENT, STRANGER = "192.0.2.7", "203.0.113.9"  # as the examples call them
NAMES = ("server.example", "myserver.example.com")
_VARYING = (  # what is another each time, in the page and in truth
    (r"\d{4}-\d\d-\d\d", "DATE"),
    (r"\d\d:\d\d:\d\d(?:[+-]\d{4})?", "TIME"),
    (r"process \d+", "process N"),
    (r"(?<=^doorward )\d[^:]*(?=: )", "VERSION"),
    (r"(?<=; up )[^,]+", "TIME"),
    (r"x25519:[\w+/=…]+", "x25519:KEY"),
    (r"(?<=  )\d+s$", "Ns"),  # how long a door still stays open
)


def assert_printed(shown: str, printed: str) -> None:
    """Compare what a page shows with what was printed, but for times and numbers of processes."""
    wanted, found = _without_varying(shown), _without_varying(printed)
    assert is_shown(wanted, found), f"the page shows:\n{shown}\nbut it is:\n{printed}"


def _without_varying(text: str) -> str:
    for pattern, word in _VARYING:
        text = re.sub(pattern, word, text, flags=re.MULTILINE)
    return text


def program(folder: Path, name: str, *words: object) -> None:
    """Let a program be found under a name where `search_path` leads."""
    path = folder / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f'#!/bin/sh\nexec {shlex.join(map(str, words))} "$@"\n')
    path.chmod(0o755)


def search_path(folder: Path) -> str:
    """Return a PATH on which doorward's programs are found first."""
    program(folder, "doorward", *DOORWARD)
    program(folder, "knock", sys.executable, "-m", "doorward.cli.knockd_client")
    return f"{folder}/bin:{os.environ['PATH']}"


class Seat:
    """A host and a directory on it, where the examples are typed; doorward's programs are on its PATH.

    `meant` has what replaces words of the page: a path for a path of the machine's own, a key for `x25519:…`.
    """

    def __init__(self, host: NamespaceHost, folder: Path, env: Mapping[str, object] | None = None) -> None:
        self.host, self.folder, self.at = host, folder, folder / "home"
        self.meant: dict[str, str] = {}
        self.at.mkdir(parents=True)
        nobody = {"XDG_CONFIG_HOME": "", "SSH_AUTH_SOCK": "", "SSH_CONNECTION": "", "HOME": self.at, "TZ": "UTC"}
        given = nobody | {"PATH": search_path(folder)} | dict(env or {})
        self.env = {name: str(value) for name, value in given.items()}

    def script(self, call: Call) -> list[str]:
        """Return the shell's words that do what a line says, and write where it left the shell."""
        typed = call.typed
        for page, here in self.meant.items():
            typed = typed.replace(page, here)
        lines = (f"cd {self.at}", "exec 2>&1", typed, f"pwd >{self.folder}/at")
        return ["sh", "-ec", "\n".join(lines)]

    def type(self, call: Call, *, status: int = 0) -> str:
        """Do what a line says; where the page shows what is printed, that is compared."""
        done = self.host.run(self.script(call), env=self.env, check=False, timeout_s=120)
        assert done.returncode == status, (call.typed, done.stdout)
        self.at = Path((self.folder / "at").read_text().strip()) if not status else self.at
        printed = done.stdout
        for page, here in sorted(self.meant.items(), key=lambda pair: -len(pair[1])):  # a link, before the key in it
            printed = printed.replace(here, page)
        if call.printed.strip():
            assert_printed(call.printed, printed)
        return printed

    @contextmanager
    def typing(self, call: Call, *before: object) -> Iterator[Screen]:
        """Begin what goes on until it is ended, as by Ctrl-C."""
        ours, its = os.openpty()
        process = self.host.popen([*before, *self.script(call)], env=self.env, stdout=its)
        os.close(its)
        screen = Screen(process, ours)
        try:
            yield screen
        finally:
            screen.interrupt()
            process.wait(PATIENCE_S)
            os.close(ours)


class Screen:
    """What a program that goes on has printed so far."""

    def __init__(self, process: subprocess.Popen[str], handle: int) -> None:
        self.process, self._handle, self._seen = process, handle, ""

    def line(self) -> str:
        """Wait for the next line."""
        deadline_s = time.monotonic() + PATIENCE_S
        while "\n" not in self._seen:
            ready, _, _ = select.select([self._handle], [], [], max(0, deadline_s - time.monotonic()))
            assert ready, f"no line, but: {self._seen}"
            self._seen += os.read(self._handle, 4096).decode().replace("\r\n", "\n")
        line, _, self._seen = self._seen.partition("\n")
        return f"{line}\n"

    def interrupt(self) -> None:
        """Press Ctrl-C: all of the line get the signal."""
        os.killpg(self.process.pid, signal.SIGINT)


def name_hosts(lab: Lab) -> None:
    """Give client and stranger the addresses that they have in the examples; the server has its own."""
    for host, address in (lab.client, CLIENT), (lab.stranger, STRANGER):
        network, _, _ = address.rpartition(".")
        host.ip(
            batch=[
                f"address delete {host.ipv4}/24 dev {host.interface}",
                f"address add {address}/24 dev {host.interface}",
                f"route replace 0.0.0.0/0 via {network}.1",
            ]
        )
        host.ipv4 = IPv4Address(address)
