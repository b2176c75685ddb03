"""The pages about signed knocks and their clients, typed: on the server as root, and on somebody's own machine."""

from __future__ import annotations

import json
import os
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from doorward.lab.topology import Lab
from tests.support import ssh_keygen
from tests.support.consoles import Console
from tests.support.docs_session import DocsSession, docs_session
from tests.support.documents import ROOT, Call, blocks
from tests.support.service_user import GROUP

pytestmark = pytest.mark.netns("nft", "nmap", "ssh", "ssh-keygen", "/usr/sbin/sshd", "unshare")

KEY = "x25519:hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo="  # the server's public key on these pages
KEY_PATTERN = r"x25519:[\w/+]{43}="
# What stands for psql and pg_dump: it connects for real, and writes what the service says first.
CONNECT = """\
import socket, sys
words = dict(zip(sys.argv[1::2], sys.argv[2::2]))
with socket.create_connection((words["-h"], 5432), 10) as service:
    said = service.makefile().readline()
with open(words["-f"], "w") if "-f" in words else sys.stdout as output:
    output.write(said)
"""
DOOR = """
[doors.ssh]
knock = ["4721/tcp", "11839/udp", "7306/tcp"]
opens = ["22/tcp"]
[signed]
"""
ACCESS = """
SOURCE             203.0.113.0/24
OPEN_PORTS         tcp/22
REQUIRE_USERNAME   alice
KEY_BASE64         c2hhcmVkIHRvbw==
HMAC_KEY_BASE64    aG1hYyBvZiBhbGljZQ==
FW_ACCESS_TIMEOUT  30
MAX_FW_TIMEOUT     300
"""


def first(page: str, language: str) -> str:
    return next(blocks(ROOT / page, language)).text


@pytest.fixture
def session(lab: Lab) -> Iterator[DocsSession]:
    with docs_session(lab) as session:
        yield session


@pytest.fixture
def afar(lab: Lab) -> Iterator[DocsSession]:
    """You are at 203.0.113.2, as in the lines of these pages that say from where."""
    with docs_session(lab, you=lab.stranger) as session:
        yield session


def authorize(session: DocsSession, *lines: str) -> None:
    path = session.daemon.config.parent / "authorized_keys"
    path.write_text("".join(f"{line}\n" for line in lines))
    os.chown(path, 0, GROUP)
    path.chmod(0o640)


def make_key(session: DocsSession) -> None:
    """Make the server's key; what prints it is typed elsewhere."""
    session.swaps[KEY] = session.daemon.run("key", "server").stdout.strip()


def bare(private: Path) -> str:
    """Give a public key without its comment."""
    return " ".join(ssh_keygen.public_line(private).split()[:2])


def opened_by(session: DocsSession) -> str:
    by: str = session.daemon.event("opened", address=str(session.hosts["$"].ipv4))["by"]
    return by


@pytest.mark.console("docs/signed-knocks.md")
def test_signed_knocks(session: DocsSession, console: Console) -> None:
    page = "docs/signed-knocks.md"
    session.configure('[gate]\nmode = "stealth"\n[doors.other]\nopens = ["80/tcp"]\n')
    session.start()
    session.configure(first(page, "toml"))
    printed = session.compare(next(console), vary={KEY: KEY_PATTERN})
    session.swaps[KEY] = printed.split()[-1]
    for call in console:
        printed = session.compare(call)
        assert not call.typed.startswith("doorward check") or ": good: 1 door, " in printed
    session.daemon.message("accepting signed knocks")
    assert textwrap.indent(first(page, "text"), "    ") in printed  # as `doorward add` says
    (session.home("$") / ".ssh/config").write_text(first(page, "text"))
    assert session.type(Call("$", "ssh home echo in", "")) == "in\n"
    assert opened_by(session) == "key ed25519 number 0"
    session.type(Call("#", f"doorward close ssh {session.lab.client.ipv4}", ""))
    session.type(Call("$", "doorward knock home ssh", ""))
    assert opened_by(session) == "key ed25519 number 0"


@pytest.mark.console("docs/certificates.md")
def test_single_sign_on_by_certificates(session: DocsSession, console: Console) -> None:
    session.configure(first("docs/signed-knocks.md", "toml"))
    make_key(session)
    authority = ssh_keygen.key("ed25519", 1)
    line = first("docs/certificates.md", "text").replace("ssh-ed25519 AAAA…", bare(authority)).strip()
    authorize(session, line)
    (session.home("$") / ".ssh/id_ed25519.pub").write_text(ssh_keygen.public_line(session.private) + "\n")
    (session.home("$") / "ca").write_bytes(authority.read_bytes())
    (session.home("$") / "ca").chmod(0o600)
    session.start()
    session.type(Call("$", f"doorward add home --address server.example --server-key {KEY} --door ssh", ""))
    sign, knock = console
    session.compare(sign)
    session.compare(knock)
    assert opened_by(session) == "key ada (signed by our authority)"


@pytest.mark.console("docs/maintenance.md")
def test_the_servers_key_is_changed(session: DocsSession, console: Console) -> None:
    session.configure(first("docs/signed-knocks.md", "toml"))
    make_key(session)
    authorize(session, ssh_keygen.public_line(session.private))
    session.start()
    move, make, *rest = console
    session.compare(move)
    new = session.compare(make, vary={KEY: KEY_PATTERN}).split()[-1]
    for call in rest:
        session.compare(call)
    session.daemon.message("accepting signed knocks")
    words = f"--server-key {new} --signed-port 62201 --identity {session.private}"
    session.type(Call("$", f"doorward knock server.example ssh {words}", ""))
    assert opened_by(session) == "key ed25519 number 0"


@pytest.mark.console("docs/database.md")
def test_a_database(afar: DocsSession, console: Console) -> None:
    """Here the door closes after 3 s, and `verify` looks at fewer ports."""
    page, session = "docs/database.md", afar
    session.lab.server.start_greeter(5432)
    session.configure(first(page, "toml").replace('for = "30s"', 'for = "3s"'))
    make_key(session)
    other = ssh_keygen.key("ed25519", 1)
    reports = first(page, "text").strip().replace("ssh-ed25519 AAAA…", bare(session.private))
    authorize(session, reports, f'doors="db" {bare(other)} backup')
    session.start()
    session.swaps |= {"/etc/backup/id_ed25519": str(other), "1-10000": "5400-5500"}
    for name in ("psql", "pg_dump"):
        session.program(name, sys.executable, "-c", CONNECT)
    add, query, hold, backup, verify = console
    session.compare(add)
    assert session.compare(query) == f"welcome, {session.lab.stranger.ipv4}\n"
    assert opened_by(session) == "key reports"
    session.daemon.run("close", "db", session.lab.stranger.ipv4, check=False)  # or it has closed by itself
    assert session.compare(hold) == f"welcome, {session.lab.stranger.ipv4}\n"
    assert opened_by(session) == "key reports"
    session.daemon.run("close", "db", session.lab.stranger.ipv4, check=False)
    session.compare(backup)
    assert opened_by(session) == "key backup"
    session.daemon.run("close", "db", session.lab.stranger.ipv4, check=False)
    assert (session.home("$") / "shop.sql").read_text() == f"welcome, {session.lab.stranger.ipv4}\n"
    assert "OK" in session.compare(verify, at="$")


@pytest.mark.console("docs/from-fwknop.md")
def test_coming_from_fwknop(afar: DocsSession, console: Console) -> None:
    page, session = "docs/from-fwknop.md", afar
    session.swaps["/etc/fwknop/access.conf"] = str(session.folder / "access.conf")
    (session.folder / "access.conf").write_text(ACCESS)
    session.daemon.config.unlink(missing_ok=True)
    said = session.compare(next(console))
    assert not {"c2hhcmVkIHRvbw", "aG1hYyBvZiBhbGljZQ"}.intersection(re.split(r"[\s=]+", said))
    session.swaps[KEY] = session.compare(next(console), vary={KEY: KEY_PATTERN}).split()[-1]
    session.swaps |= {"x25519:hSDw…": session.swaps[KEY], "-g doorward": f"-g {GROUP}"}
    for call in console:
        if call.prompt == "$" and not hasattr(session.daemon, "process"):
            session.start()
            shared = "--key-base64-rijndael c2hhcmVkIHRvbw== --use-hmac --key-base64-hmac aG1hYyBvZiBhbGljZQ=="
            own = f"{shared} --spoof-user alice --no-save-args --time-offset-plus 2s"  # not of the second of the start
            knock = "fwknop -A tcp/22 -R -D server.example"
            assert f"`{knock}` works as before" in (ROOT / page).read_text()
            session.type(Call("$", f"{knock.replace('-R', f'-a {session.hosts[call.prompt].ipv4}')} {own}", ""))
            assert opened_by(session) == "fwknop alice"
            session.daemon.run("close", "ssh", session.hosts["$"].ipv4)
            session.type(Call("#", re.sub("ssh-ed25519 [^ ]+", bare(session.private), first(page, "sh")), ""))
        printed = session.compare(call)
        assert not call.typed.startswith("doorward check") or ": good: 1 door, " in printed
    assert opened_by(session) == "key alice"
    assert "fwknop alice: last used " in (status := session.daemon.run("status").stdout)
    assert "; moved: signed knock " in status


@pytest.mark.console("docs/phone.md")
def test_a_phone(session: DocsSession, console: Console) -> None:
    session.configure(DOOR)
    make_key(session)
    authorize(session, f"{bare(session.private)} phone")
    session.start()
    app, section = next(console), next(console)
    session.compare(app)
    told = json.loads((session.home("#") / "ssh.json").read_text())
    assert "server.example" in json.dumps(told)
    session.compare(section)
    text = (session.home("#") / "knockd.conf").read_text()
    assert re.search(r"^\[ssh\]$.*4721:tcp,11839:udp,7306:tcp$", text, re.MULTILINE | re.DOTALL)
    session.link = session.type(Call("#", "doorward share ssh --host server.example", "")).strip()
    for call in console:
        session.compare(call)
    assert opened_by(session) == "key phone"
