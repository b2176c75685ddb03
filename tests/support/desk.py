"""A server with sshd and a machine before it, at which the lines of the documentation are typed."""

from __future__ import annotations

import os
import re
import shlex
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from doorward.lab import Lab
from tests.support import ssh_keygen
from tests.support.daemon import DOORWARD, RunningDaemon
from tests.support.documents import Call
from tests.support.service_user import GROUP, USER, open_folder, service_user, wrapped
from tests.support.sshd import SSH, running_sshd

ANYTHING = "…"


class Desk:
    """A server with sshd and a machine before it, which are 198.51.100.2 and 192.0.2.2 as on the page."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab, self.folder, self.link = lab, folder, ""
        self.private = ssh_keygen.key("ed25519")
        self.daemon = RunningDaemon(lab.server, folder / "server", "")
        self.daemon.config.unlink()
        self.daemon.wrapper = wrapped(folder / "hold")
        for path in (self.daemon.state, self.daemon.control.parent):
            os.chown(path, USER, GROUP)
        (self.daemon.folder / "notify").chmod(0o666)
        self.environment = {"#": self._home("root") | self.daemon.env, "$": self._home("you")}
        for name, program in {"doorward": DOORWARD, "ssh": (SSH, "-F", folder / "ssh_config")}.items():
            self._program(name, *program)

    def _home(self, user: str) -> dict[str, str]:
        """Make somebody's home, with the key by which you log in."""
        keys = self.folder / user / ".ssh"
        keys.mkdir(parents=True, mode=0o700)
        public = ssh_keygen.public_line(self.private) + "\n"
        (keys / "authorized_keys").write_text(public)
        (keys / "id_ed25519").write_bytes(self.private.read_bytes())
        (keys / "id_ed25519").chmod(0o600)
        programs = f"{self.folder / 'bin'}:{os.environ['PATH']}"
        return {"HOME": str(keys.parent), "PATH": programs, "SSH_AUTH_SOCK": "", "SSH_CONNECTION": "", "TZ": "UTC"}

    def _program(self, name: str, *words: object) -> None:
        path = self.folder / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f'#!/bin/sh\nexec {shlex.join(map(str, words))} "$@"\n')
        path.chmod(0o755)

    def login(self) -> str:
        """Give the line by which sshd lets you in: what you type there finds the server's programs and folders."""
        variables = shlex.join(f"{name}={value}" for name, value in self.environment["#"].items() if name[:3] != "SSH")
        session = f'env {variables} sh -c \\"$SSH_ORIGINAL_COMMAND\\"'
        return f'command="{session}" {ssh_keygen.public_line(self.private)}'

    def write_ssh_config(self, text: str) -> None:
        proxy = text.replace("doorward", shlex.join(DOORWARD))
        more = f"IdentityFile {self.private}\nStrictHostKeyChecking no\nUserKnownHostsFile /dev/null\nLogLevel ERROR\n"
        (self.folder / "ssh_config").write_text(proxy + more)

    def type(self, call: Call) -> str:
        """Do what a line says; gives what is printed."""
        if call.typed.startswith("doorward run"):
            self.daemon.start(*call.typed.split()[2:])
            self.daemon.message("takes signed knocks")
            return ""
        if call.typed.startswith("systemctl enable --now"):
            self.daemon.end(signal.SIGINT)  # the Ctrl-C of which the page speaks
            self.daemon.start()
            self.daemon.message("takes signed knocks")
            return ""
        host = self.lab.server if call.prompt == "#" else self.lab.client
        typed = re.sub(r"'doorward://.*?…'", shlex.quote(self.link), call.typed)
        done = host.run(["sh", "-ec", typed], env=self.environment[call.prompt], check=False, timeout_s=120)
        over = call.typed.startswith("doorward close") and done.returncode == 1  # by itself, on a slow machine
        assert done.returncode == 0 or over, (call.typed, done.stdout, done.stderr)
        if call.typed.startswith("doorward init"):
            config = self.daemon.config.read_text()
            assert config.count('for = "30s"') == 1
            self.daemon.config.write_text(config.replace('for = "30s"', 'for = "10s"'))  # not to wait so long here
        return done.stdout.replace(str(self.daemon.config.parent), "/etc/doorward")


def as_pattern(printed: str) -> str:
    """Take what the page leaves out for anything: a line of its own for any lines, within a line for any letters."""
    lines = [".*" if line == ANYTHING else re.escape(line).replace(ANYTHING, "[^\n]*") for line in printed.splitlines()]
    return "\\s*" + "\\s*".join(lines) + "\\s*"


@contextmanager
def standing_desk(lab: Lab, ssh_config: str) -> Iterator[Desk]:
    """Give a desk with a running sshd and that ssh_config; no gate runs yet."""
    with ExitStack() as stack:
        folder = stack.enter_context(open_folder())
        stack.enter_context(service_user(lab.server))
        desk = Desk(lab, folder)
        desk.write_ssh_config(ssh_config)
        stack.enter_context(running_sshd(lab.server, folder / "sshd", [desk.login()]))
        stack.callback(desk.daemon.close)
        yield desk
