"""From `apt install` to a verified host in six commands, typed as a newcomer types them, on a fresh Debian.

docs/dev/session.md shows the same; `SESSION=FILE scripts/deb --test -k six_commands` writes what the terminals showed.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from doorward.lab.namespace import NamespaceHost
from doorward.lab.topology import Lab
from tests.support import ssh_keygen
from tests.support.debian_packages import Built, script
from tests.support.sshd import SSH
from tests.support.systemd_container import SystemdContainer
from tests.support.terminal import Terminal

pytestmark = [
    pytest.mark.netns("systemd-nspawn", "mmdebstrap", "dh", "nsenter", "nmap", "ssh", "ssh-keygen"),
    pytest.mark.debian,
    pytest.mark.timeout(900),  # the first to come waits for the packages and the root
]

MOST_S = 300.0
PATIENCE_S = 120.0  # a command takes seconds, a look at all ports twenty
LAPTOP = "laptop# "
ON_LAPTOP, ON_SERVER, QUESTION, ANSWER = r"laptop# $", r"ada@box:~\$ $", r"\]: $", r"yes/no.*\)\? $"


class Newcomer:
    """Types on two terminals; keeps what was typed and what was shown, and how long it took."""

    def __init__(self, server: Terminal, client: Terminal) -> None:
        self.server, self.client = server, client
        self.typed: list[str] = []
        self.shown: list[str] = []
        self.took_s = 0.0

    def types(self, terminal: Terminal, line: str, then: str, *answers: str, question: str = QUESTION) -> str:
        """Type a command, and answers to what it asks; returns what is shown until `then` appears."""
        began_s = time.monotonic()
        self.typed.append(line)
        shown = ""
        for keys, awaited in zip((line, *answers), (*(question for _ in answers), then), strict=True):
            terminal.send(f"{keys}\n")
            shown += terminal.until(awaited, PATIENCE_S)
        took_s = time.monotonic() - began_s
        self.took_s += took_s
        self.shown.append(f"[{took_s:.1f} s] {shown}")
        return shown


@contextmanager
def on_the_laptop(host: NamespaceHost, folder: Path) -> Iterator[Terminal]:
    """A shell on the client, where root has a home of his own: ssh looks for that in passwd(5)."""
    folder.joinpath("passwd").write_text(f"root:x:0:0::{folder}:/bin/bash\nsshd:x:101:65534::/run/sshd:/bin/false\n")
    places = f"PATH={Path(sys.executable).parent}:{os.environ['PATH']}"
    shell = "mount --bind passwd /etc/passwd; exec bash --noprofile --norc -i"
    environment = ("env", "-u", "XDG_CONFIG_HOME", "-u", "SSH_AUTH_SOCK", f"HOME={folder}", places, f"PS1={LAPTOP}")
    command = (*environment, "unshare", "--mount", f"--wd={folder}", "sh", "-euc", shell)
    with Terminal(host, command) as terminal:
        terminal.until(ON_LAPTOP, PATIENCE_S)
        yield terminal


@pytest.fixture
def newcomer(built: Built, direct_lab: Lab, tmp_path: Path) -> Iterator[Newcomer]:
    """A fresh Debian with sshd, where ada may sudo and is logged in from her laptop, with her key."""
    tmp_path.joinpath(".ssh").mkdir(mode=0o700)
    private = ssh_keygen.key("ed25519")
    for path in private, private.with_suffix(".pub"):
        copy = tmp_path / ".ssh" / path.name.replace(private.name, "id_ed25519")
        copy.write_bytes(path.read_bytes())
        copy.chmod(0o600)
    (root,) = script("--root")
    with (
        SystemdContainer(Path(root), built.folder, direct_lab.server) as machine,
        on_the_laptop(direct_lab.client, tmp_path) as login,
        on_the_laptop(direct_lab.client, tmp_path) as client,
    ):
        machine.run("hostname", "box")
        machine.write("/etc/hosts", "127.0.0.1 localhost\n127.0.1.1 box\n")
        machine.write("/etc/apt/apt.conf.d/session", 'Dpkg::Progress-Fancy "0";\n')  # no bar that moves
        machine.run("useradd", "--create-home", "--shell", "/bin/bash", "ada")
        machine.write("/etc/sudoers.d/ada", "ada ALL=(ALL) NOPASSWD: ALL\n", mode="440")
        machine.run("install", "-d", "-m", "700", "-o", "ada", "-g", "ada", "/home/ada/.ssh")
        line = ssh_keygen.public_line(private)
        machine.write("/home/ada/.ssh/authorized_keys", f"{line}\n", mode="600", owner="ada:ada")
        machine.run("systemctl", "start", "ssh")
        login.send(f"{SSH} ada@{direct_lab.server.ipv4}\n")
        login.until(ANSWER, PATIENCE_S)
        login.send("yes\n")
        login.until(ON_SERVER, PATIENCE_S)
        yield Newcomer(login, client)


def next_of(shown: str, program: str) -> str:
    """Return the command of this program that `doorward init` says comes next, or `doorward add` before that."""
    rest = shown if program == "doorward add" else shown.partition("\nnext:\n")[2]
    found = re.search(rf"(?m)^  ({program} .*?)(  +#.*)?$", rest)
    assert found, shown
    return found[1]


def signed_packets(newcomer: Newcomer) -> int:
    """Tell how many packets have come to the port of signed knocks."""
    newcomer.server.send("sudo nft list counter inet doorward signed\n")
    shown = newcomer.server.until(ON_SERVER, PATIENCE_S)
    found = re.search(r"packets (\d+)", shown)
    assert found, shown
    return int(found[1])


def test_six_commands(newcomer: Newcomer, built: Built) -> None:
    types, server, client = newcomer.types, newcomer.server, newcomer.client
    packages = f"/packages/{built.client.name} /packages/{built.doorward.name}"
    assert "Setting up doorward " in types(server, f"sudo apt install {packages}", ON_SERVER)

    output = types(server, "sudo doorward init", ON_SERVER, "", "")
    assert "you are logged in through it" in output
    assert "those of /home/ada/.ssh/authorized_keys" in output
    assert "wrote /etc/doorward/doorward.toml: mode guard, doors ssh=22/tcp" in output

    begun = types(server, f"sudo {next_of(output, 'systemctl')}", ON_SERVER)
    assert "Created symlink" in begun
    assert "ailed" not in begun

    added = types(client, next_of(output, "doorward add"), ON_LAPTOP)
    assert "`ssh box` now knocks first" in added

    entered = types(client, next_of(output, "ssh").replace("box", "ada@box"), ON_SERVER, "yes", question=ANSWER)
    assert "doorward: " not in entered
    assert signed_packets(newcomer) == 1  # at the first try
    client.send("exit\n")
    client.until(ON_LAPTOP, PATIENCE_S)

    verify = re.search(r"doorward verify box .*", output)
    assert verify, output
    verified = types(client, verify[0], ON_LAPTOP)
    assert "OK" in verified
    client.send("echo status $?\n")
    assert "status 0" in client.until(ON_LAPTOP, PATIENCE_S)

    server.send("sudo doorward log | cat\n")
    log = server.until(ON_SERVER, PATIENCE_S)
    assert len(re.findall(r"opened .* ssh: 22/tcp, by key ", log)) == 2, log  # her ssh, and verify

    assert len(newcomer.typed) == 6
    report = f"{len(newcomer.typed)} commands, {newcomer.took_s:.1f} s of machine time\n\n" + "".join(newcomer.shown)
    if where := os.environ.get("SESSION"):
        Path(where).write_text(f"{report}\n{log}\n")
    sys.stdout.write(report)
    assert newcomer.took_s < MOST_S
