"""The examples of the commands that make and read files, typed where there are such files."""

from __future__ import annotations

import json
import shlex
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from doorward.client.link_uri import parse_link
from doorward.config.files import read
from doorward.lab.topology import Lab
from doorward.model import Port
from tests.support import ssh_keygen
from tests.support.consoles import Console
from tests.support.daemon import PATIENCE_S
from tests.support.documents import Call
from tests.support.examples import Seat
from tests.support.manual import MANUAL_1
from tests.support.sshd import running_sshd
from tests.support.terminal import Terminal

pytestmark = pytest.mark.netns("bash", "ssh-keygen", "/usr/sbin/sshd")

WEAK = """\
[gate]
mode = "stealth"

[doors.web]
opens = ["8080/tcp"]
knock = ["17341/tcp", "52018/udp"]

[doors.ssh]
opens = ["22/tcp"]
"""
SSH = Port.parse("22/tcp")
ACCESS = """\
SOURCE              ANY
OPEN_PORTS          tcp/22
FW_ACCESS_TIMEOUT   60
KEY_BASE64          c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0
HMAC_KEY_BASE64     c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0
"""


@pytest.fixture
def seat(lab: Lab, tmp_path: Path) -> Iterator[Seat]:
    """Give root's place at a server with sshd, who has a key."""
    seat = Seat(lab.server, tmp_path / "seat")
    public = ssh_keygen.public_line(ssh_keygen.key("ed25519"))
    (seat.at / ".ssh").mkdir(mode=0o700)
    (seat.at / ".ssh/authorized_keys").write_text(f"{public}\n")
    with running_sshd(lab.server, tmp_path / "sshd", [public]):
        yield seat


def configure(seat: Seat, text: str = "") -> Path:
    """Use another directory for the server's configuration, with this one in it."""
    folder = Path(tempfile.mkdtemp(dir=seat.folder))
    if text:
        (folder / "doorward.toml").write_text(text)
        (folder / "doorward.toml").chmod(0o600)
    seat.env["CONFIGURATION_DIRECTORY"] = str(folder)
    return folder / "doorward.toml"


@pytest.mark.console("docs/reference/commands.md", "doorward init")
def test_init(seat: Seat, console: Console) -> None:
    asks, asks_nothing, stealth = console
    made = configure(seat)
    variables = [f"{name}={value}" for name, value in seat.env.items()]
    with Terminal(seat.host, ["env", *variables, *seat.script(asks)]) as terminal:
        for question in ("Mode: ", "Name or address "):
            assert terminal.until(question + r".*\[[^]]+\]: ", PATIENCE_S)
            terminal.send("\n")
        terminal.until("next:", PATIENCE_S)
    usual, hiding = read(made), read(made_by(seat, stealth))
    assert (usual.gate.mode, [(door.name, door.opens) for door in usual.doors]) == ("guard", [("ssh", (SSH,))])
    assert read(made_by(seat, asks_nothing)).gate == usual.gate
    assert (hiding.gate.mode, [door.name for door in hiding.doors]) == ("stealth", ["ssh", "db"])


def made_by(seat: Seat, call: Call) -> Path:
    """Set up a server; called again, it changes nothing."""
    path = configure(seat)
    assert f"wrote {path}" in seat.type(call)
    assert f"{path} already exists and is left unchanged" in seat.type(call)
    return path


@pytest.mark.console("docs/reference/commands.md", "doorward check")
def test_check(seat: Seat, console: Console) -> None:
    (call,) = console
    (seat.at / "doorward.toml").write_text(WEAK)
    seat.type(call)


@pytest.mark.console("docs/reference/commands.md", "doorward key")
def test_key(seat: Seat, console: Console) -> None:
    (call,) = console
    path = configure(seat, WEAK + "[signed]\n")
    seat.meant["/etc/doorward"] = str(path.parent)
    made = seat.type(call).splitlines()[-1]
    assert seat.type(call._replace(printed=made)) == f"{made}\n"
    assert (path.parent / "server.key").stat().st_mode & 0o777 == 0o600


@pytest.mark.console("docs/reference/commands.md", "doorward share")
def test_share(seat: Seat, console: Console) -> None:
    for_a_camera, for_the_app, alone, for_a_browser = console
    configure(seat, WEAK + 'knock = ["7000/tcp", "8000/udp", "9000/tcp"]\n')
    link, picture = seat.type(for_a_camera).split("\n", 1)
    assert parse_link(link).host == str(seat.host.ipv4)
    assert picture.count("█") > 100
    assert seat.type(for_the_app) == ""
    (shared,) = json.loads((seat.at / "ssh.json").read_text())["sequences"]
    assert [step["port"] for step in shared["steps"]] == [7000, 8000, 9000]
    found = parse_link(seat.type(alone).strip())
    assert (found.host, [name for name, _ in found.doors]) == ("server.example", ["ssh"])
    configure(seat, WEAK + "[signed]\n")
    key = seat.type(Call("#", "doorward key server", "")).splitlines()[-1]
    seat.type(for_a_browser)
    assert key in (seat.at / "knock.html").read_text()


@pytest.mark.console("docs/reference/commands.md", "doorward allow")
def test_allow(seat: Seat, console: Console) -> None:
    (call,) = console
    allow(seat, configure(seat, WEAK + "[signed]\n"), call)


def allow(seat: Seat, config: Path, call: Call) -> None:
    """Allow a key where the file has three lines."""
    path = config.with_name("authorized_keys")
    path.write_text("#\n#\n#\n")
    line = " ".join([*ssh_keygen.public_line(ssh_keygen.key("ed25519")).split()[:2], "phone"])
    seat.meant |= {"/etc/doorward": str(path.parent), "ssh-ed25519 AAAAC3… phone": line}
    seat.type(call)
    assert path.read_text() == f'#\n#\n#\ndoors="ssh",for-max="1h" {line}\n'


@pytest.mark.console("docs/browser.md")
def test_page_for_a_browser(seat: Seat, console: Console) -> None:
    page, allowing, for_sequences = console
    path = configure(seat, WEAK + "[signed]\n")
    key = seat.type(Call("#", "doorward key server", "")).splitlines()[-1]
    seat.type(page)
    text = (seat.at / "knock.html").read_text()
    assert all(part in text for part in (key, "2001:db8::7", "ssh://alice@192.0.2.7"))
    allow(seat, path, allowing)
    configure(seat, WEAK + 'knock = ["7000/tcp", "8000/udp", "9000/tcp"]\n')
    seat.type(for_sequences)
    assert '["udp", 8000]' in (seat.at / "secret.html").read_text()


@pytest.mark.console("docs/people.md")
def test_add_and_remove_a_person(seat: Seat, console: Console) -> None:
    add, people, revoke = console
    path = configure(seat, WEAK + "[signed]\n").with_name("authorized_keys")
    path.write_text("#\n")
    path.chmod(0o600)
    line = _add_grace(seat, path)
    seat.type(add)
    assert path.read_text() == f'#\ndoors="ssh",for-max="1h" {line}\n'
    assert "grace" in seat.type(people)
    seat.type(revoke)
    assert path.read_text() == "#\n"


@pytest.mark.console("docs/reference/commands.md", "doorward revoke", "doorward people")
def test_people(seat: Seat, console: Console) -> None:
    revoke, people = console
    path = configure(seat, WEAK + "[signed]\n").with_name("authorized_keys")
    ada = " ".join([*ssh_keygen.public_line(ssh_keygen.key("ed25519")).split()[:2], "ada"])
    path.write_text(f'{ada}\ndoors="ssh",for-max="1h" {_add_grace(seat, path)}\n')
    path.chmod(0o600)
    seat.type(people)
    seat.type(revoke)
    assert path.read_text() == f"{ada}\n"


def _add_grace(seat: Seat, path: Path) -> str:
    """Let the page's key be one; return its line."""
    line = " ".join([*ssh_keygen.public_line(ssh_keygen.key("ed25519", 1)).split()[:2], "grace"])
    seat.meant |= {"/etc/doorward": str(path.parent), "ssh-ed25519 AAAAC3… grace": line}
    return line


@pytest.mark.console("docs/reference/commands.md", "doorward import")
def test_import(seat: Seat, console: Console) -> None:
    knockd, fwknop = seat.folder / "knockd.conf", seat.folder / "access.conf"
    knockd.write_text(MANUAL_1)
    fwknop.write_text("#\n" * 11 + ACCESS)
    seat.meant |= {"/etc/knockd.conf": str(knockd), "/etc/fwknop/access.conf": str(fwknop)}
    for call in console:
        seat.type(call)
    assert [door.name for door in read(seat.at / "doorward.toml").doors] == ["openSSH", "closeSSH"]
    assert "# Check: the stanza of line 12; in authorized_keys, a line" in (seat.at / "fwknop.toml").read_text()


@pytest.mark.console("docs/reference/commands.md", "doorward completion")
def test_completion(seat: Seat, console: Console) -> None:
    home = seat.at
    (home / ".local/share/bash-completion/completions").mkdir(parents=True)
    for call in console:
        seat.type(call)
    assert seat.at != home
    script = 'source doorward; COMP_WORDS=(doorward stat); COMP_CWORD=1; _shtab_doorward; echo "${COMPREPLY[@]}"'
    done = seat.host.run(["sh", "-c", f"cd {seat.at}; bash -c {shlex.quote(script)}"])
    assert done.stdout == "status\n"
