"""A server with sshd and a machine before it, at which the lines of the documentation are typed."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from doorward.lab.namespace import NamespaceHost
from doorward.lab.topology import Lab
from doorward.model import Address
from tests.support import ssh_keygen
from tests.support.daemon import DOORWARD, PATIENCE_S, RunningDaemon
from tests.support.documents import Call
from tests.support.service_user import GROUP, USER, open_folder, service_user, wrapped
from tests.support.shown import is_shown
from tests.support.sshd import SSH, running_sshd
from tests.support.terminal import Terminal

_LINE = 'exec 2>&1; cd "$HOME"; '  # before each: a terminal shows both outputs
_DONE = "doorward-test-done"


class DocsSession:
    """A server with sshd and a machine before it, which are 198.51.100.2 and 192.0.2.2 as on the page."""

    def __init__(self, lab: Lab, folder: Path, you: NamespaceHost | None = None) -> None:
        self.lab, self.folder, self.link = lab, folder, ""
        self.hosts = {"#": lab.server, "$": you or lab.client}
        self.swaps: dict[str, str] = {}  # what the page says, and what stands for it here
        self.private = ssh_keygen.key("ed25519")
        self.daemon = RunningDaemon(lab.server, folder / "server", "")
        self.daemon.config.unlink()
        self.daemon.wrapper = wrapped(folder / "hold")
        for path in (self.daemon.state, self.daemon.control.parent):
            os.chown(path, USER, GROUP)
        (self.daemon.folder / "notify").chmod(0o666)
        self.environment = {"#": self._home("root") | self.daemon.env, "$": self._home("you")}
        for name, program in {"doorward": DOORWARD, "ssh": (SSH, "-F", folder / "ssh_config")}.items():
            self.program(name, *program)

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

    def program(self, name: str, *words: object) -> None:
        """Put a program before all others for whoever types here."""
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
        """Have `ssh` read this, and then what stands in your own `~/.ssh/config`."""
        rest = f"""
Match all
Include {self.home("$")}/.ssh/config
User root
IdentityFile {self.private}
StrictHostKeyChecking no
UserKnownHostsFile /dev/null
LogLevel ERROR
"""
        (self.folder / "ssh_config").write_text(text + rest)

    def home(self, prompt: str) -> Path:
        return Path(self.environment[prompt]["HOME"])

    def configure(self, text: str) -> None:
        """Write the server's configuration, as the daemon's user may read it."""
        self.daemon.config.write_text(text)
        os.chown(self.daemon.config, 0, GROUP)
        self.daemon.config.chmod(0o640)

    def start(self, *words: str) -> None:
        """Start the daemon, and wait until it takes what its configuration lets it take."""
        self.daemon.start(*words)
        if "[signed]" in self.daemon.config.read_text():
            self.daemon.message("accepting signed knocks")

    def type(self, call: Call, *, at: str = "", status: int = 0) -> str:
        """Do what a line says, by whoever's prompt it shows or `at` says; gives what is printed."""
        if self._does_itself(call):
            return ""
        prompt, line = at or call.prompt, _LINE + self.swapped(call.typed)
        environment = self.environment[prompt]
        done = self.hosts[prompt].run(["sh", "-ec", line], env=environment, check=False, timeout_s=120)
        over = call.typed.startswith("doorward close") and done.returncode == 1  # by itself, on a slow machine
        assert done.returncode == status or over, (line, done.stdout)
        if call.typed.startswith("doorward init"):
            config = self.daemon.config.read_text()
            assert config.count('for = "30s"') == 1
            self.daemon.config.write_text(config.replace('for = "30s"', 'for = "5s"'))  # not to wait so long here
        return self.as_on_the_page(done.stdout)

    def _does_itself(self, call: Call) -> bool:
        """Do what the shell and the service manager of a page do, where a line is for them."""
        if call.typed.startswith("doorward run"):
            self.start(*(word for word in call.typed.split()[2:] if word != "&"))
        elif call.typed.startswith("systemctl enable --now"):
            self.daemon.end(signal.SIGINT)  # the Ctrl-C of which the page speaks
            self.start()
        elif call.typed == "systemctl reload doorward":  # what the unit's ExecReload does
            self.daemon.reload(self.daemon.config.read_text())
        elif call.typed.startswith("export "):  # each line has a shell of its own here
            self.environment[call.prompt] |= dict(word.split("=", 1) for word in shlex.split(call.typed)[1:])
        else:
            return False
        return True

    def begin(self, call: Call) -> subprocess.Popen[str]:
        """Start what goes on until Ctrl-C; in a line of one program the signal is for that, not for the shell."""
        alone = "" if "|" in call.typed else "exec "
        line = f"{_LINE}{alone}{self.swapped(call.typed)}"
        return self.hosts[call.prompt].popen(["sh", "-ec", line], env=self.environment[call.prompt])

    def answer(self, call: Call, *lines: str) -> str:
        """Type what asks on a terminal, and answer each question (it ends with a colon); gives what is shown."""
        variables = [f"{name}={value}" for name, value in self.environment[call.prompt].items()]
        script = f"{_LINE}{self.swapped(call.typed)}\n[ $? = 0 ] && echo {_DONE}"
        with Terminal(self.hosts[call.prompt], ["env", *variables, "sh", "-c", script]) as terminal:
            said = ""
            for line in lines:
                said += terminal.until(r": \Z", PATIENCE_S)
                terminal.send(f"{line}\n")
            said += terminal.until(_DONE, PATIENCE_S)
        return self.as_on_the_page(said.removesuffix(_DONE))

    def compare(self, call: Call, *, vary: Mapping[str, str] | None = None, **how: Any) -> str:
        """Type a line; what the page shows as printed must be what is printed."""
        printed = self.type(call, **how)
        assert not call.printed or is_shown(call.printed, printed, vary), (call.typed, printed)
        return printed

    def swapped(self, typed: str) -> str:
        """Put in what is another here than on the page."""
        typed = re.sub(r"'doorward://.*?…'", lambda _: shlex.quote(self.link), typed)
        for there, here in self._swaps():
            typed = typed.replace(there, here)
        return typed

    def as_on_the_page(self, printed: str) -> str:
        for there, here in self._swaps():
            printed = printed.replace(here, there)
        return printed

    def _swaps(self) -> Iterator[tuple[str, str]]:
        yield "/etc/doorward", str(self.daemon.config.parent)
        yield from self.swaps.items()


@contextmanager
def host_names(host: NamespaceHost, *names: tuple[str, Address]) -> Iterator[None]:
    """Let these names be these addresses, perhaps several, for all that is run on a host."""
    folder = Path("/etc/netns") / host.namespace  # `ip netns exec` puts what is there over the files of /etc
    folder.mkdir(parents=True)
    lines = [f"{address} {name}\n" for name, address in names]
    (folder / "hosts").write_text("".join([Path("/etc/hosts").read_text(), *lines]))
    try:
        yield
    finally:
        shutil.rmtree(folder)


@contextmanager
def docs_session(lab: Lab, ssh_config: str = "", you: NamespaceHost | None = None) -> Iterator[DocsSession]:
    """Run a server with a running sshd and that ssh_config; no gate runs yet. You are at the client, or there."""
    with ExitStack() as stack:
        folder = stack.enter_context(open_folder())
        stack.enter_context(service_user(lab.server))
        session = DocsSession(lab, folder, you)
        names = [(name, lab.server.ipv4) for name in ("server.example", "db.example")]
        stack.enter_context(host_names(session.hosts["$"], *names))
        session.write_ssh_config(ssh_config)
        stack.enter_context(running_sshd(lab.server, folder / "sshd", [session.login()]))
        stack.callback(session.daemon.close)
        yield session
