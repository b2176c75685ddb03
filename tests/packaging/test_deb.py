"""The Debian packages that `scripts/deb` builds: installed, used, upgraded, removed, purged in a Debian of its own."""

from __future__ import annotations

import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from doorward import __version__
from doorward.cli.main import COMMANDS
from doorward.lab.topology import Lab
from tests.support.daemon import DOORWARD, PATIENCE_S, SILENCE_S
from tests.support.debian_packages import ROOT, Built, script
from tests.support.systemd_container import SystemdContainer

pytestmark = [
    pytest.mark.netns("systemd-nspawn", "mmdebstrap", "dh", "nsenter"),
    pytest.mark.debian,
    pytest.mark.timeout(900),  # the first to come waits for the packages and the root
]

CONFIGURATION = """\
[gate]
mode = "stealth"

[doors.ssh]
knock = ["7000/tcp", "8000/udp", "9000/tcp"]
opens = ["22/tcp"]
for = "1h"

[signed]
port = ["62201/udp", "443/udp"]
confirm = true
"""
MOST_BYTES = 1_000_000
STRANGER = "198.51.100.77"
KNOCKD_CONF = """\
[options]
    logfile = /var/log/knockd.log

[greet]
    sequence = 7000,8000:udp,9000
    seq_timeout = 15
    tcpflags = syn
    command = /bin/echo %IP% > /run/greeted
"""


@pytest.fixture
def machine(built: Built, direct_lab: Lab) -> Iterator[SystemdContainer]:
    (root,) = script("--root")
    with SystemdContainer(Path(root), built.folder, direct_lab.server) as started:
        yield started


def install(machine: SystemdContainer, built: Built, *packages: Path, options: tuple[str, ...] = ()) -> str:
    files = (f"/packages/{package.relative_to(built.folder)}" for package in packages)
    done = machine.run("apt-get", "-q", "-y", *options, "install", *files)
    return done.stdout + done.stderr


def purge(machine: SystemdContainer, *packages: str) -> None:
    machine.run("apt-get", "-q", "-y", "purge", *packages)


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}


# The users, which Debian keeps.
USERS = {"etc/group", "etc/gshadow", "etc/passwd", "etc/shadow"}


def answers(lab: Lab, *, source: str = "198.51.100.1") -> bool:
    """Tell whether the service on port 22 greets this address of the client."""
    try:
        with lab.client.call(socket.create_connection, (str(lab.server.ipv4), 22), SILENCE_S, (source, 0)) as greeter:
            greeter.settimeout(PATIENCE_S)
            return bool(greeter.makefile().readline())
    except TimeoutError:
        return False


def states(machine: SystemdContainer, *units: str) -> list[str]:
    return machine.run("systemctl", "is-active", *units, check=False).stdout.split()


def main_pid(machine: SystemdContainer, unit: str) -> int:
    return int(machine.says("systemctl", "show", "-P", "MainPID", unit))


@pytest.mark.netns("ssh-keygen")
def test_from_install_to_purge(built: Built, machine: SystemdContainer, direct_lab: Lab, tmp_path: Path) -> None:
    before = machine.files()
    install(machine, built, built.client, built.doorward)

    # The program, its pages and what shells need are there, and nothing has begun.
    assert machine.says("doorward", "--version") == f"doorward {__version__}"
    assert machine.says("python3", "-m", "doorward", "--version") == f"doorward {__version__}"
    for page in ("doorward", "doorward.toml", *(f"doorward-{name}" for name in COMMANDS)):
        assert page in machine.says("man", "--warnings", page)
    asked = 'COMP_WORDS=(doorward stat); COMP_CWORD=1; _shtab_doorward doorward stat; echo "${COMPREPLY[@]}"'
    completions = "/usr/share/bash-completion/completions/doorward"
    assert machine.says("bash", "-c", f". {completions}; {asked}").split() == ["status"]
    assert machine.says("stat", "-c", "%a %U:%G", "/etc/doorward", "/var/lib/doorward").splitlines() == [
        "750 root:doorward",
        "700 doorward:doorward",
    ]
    assert states(machine, "doorward", "doorward-gate") == ["inactive", "inactive"]
    assert machine.run("systemctl", "is-enabled", "doorward", check=False).stdout.strip() == "disabled"
    assert machine.says("nft", "list", "tables") == ""

    # It does what it is for.
    machine.write("/etc/doorward/doorward.toml", CONFIGURATION, mode="640", owner="root:doorward")
    server_key = machine.says("doorward", "key", "server")
    identity = tmp_path / "id"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "laptop", "-f", identity], check=True)
    public = identity.with_suffix(".pub").read_text()
    machine.write("/etc/doorward/authorized_keys", public, mode="640", owner="root:doorward")
    assert "good: 1 door" in machine.says("doorward", "check")
    direct_lab.server.start_greeter(22)
    direct_lab.client.add_addresses([STRANGER])
    machine.run("systemctl", "enable", "--now", "doorward-gate", "doorward")
    assert not answers(direct_lab)
    knock = (*DOORWARD, "knock", direct_lab.server.ipv4)
    direct_lab.client.run([*knock, "7000", "8000/udp", "9000"])
    assert answers(direct_lab)
    machine.run("doorward", "close", "ssh", direct_lab.client.ipv4)
    assert not answers(direct_lab)
    direct_lab.client.run([*knock, "ssh", "--server-key", server_key, "--identity", identity, "--wait", "22"])
    assert re.search(r"ssh +198\.51\.100\.1 .* key laptop", machine.says("doorward", "status"))
    signed = (*knock, "ssh", "--server-key", server_key, "--identity", identity, "--confirm")
    for port in ("62201", "443"):  # the second is one that the unit's daemon can open at its start only
        done = direct_lab.client.run([*signed, "--signed-port", port])
        assert done.stdout.startswith(f"open for {direct_lab.client.ipv4} for 1h (")
    warnings = machine.says("journalctl", "-q", "-u", "doorward", "-p", "warning", "-o", "cat")
    assert warnings == ""

    # An upgrade: another process, the same gate, and what is open stays open.
    running = main_pid(machine, "doorward")
    install(machine, built, built.client, built.doorward, options=("--reinstall",))
    assert states(machine, "doorward") == ["active"]
    assert main_pid(machine, "doorward") not in (running, 0)
    assert answers(direct_lab)
    assert not answers(direct_lab, source=STRANGER)
    assert machine.says("cat", "/etc/doorward/doorward.toml") == CONFIGURATION.strip()

    # Root has kept what is in force: a wrong file does not stop the daemon, and systemd never gives up starting it.
    kept = "/etc/doorward/doorward.toml.last"
    assert machine.says("stat", "-c", "%a %U:%G", kept) == "640 root:doorward"
    machine.write("/etc/doorward/doorward.toml", CONFIGURATION + "# 2\n", mode="640", owner="root:doorward")
    machine.run("systemctl", "reload", "doorward")
    assert machine.says("tail", "-n", "1", kept) == "# 2"
    machine.write("/etc/doorward/doorward.toml", "[gate", mode="640", owner="root:doorward")
    machine.run("systemctl", "restart", "doorward")
    assert machine.run("doorward", "status", check=False).returncode == 1
    assert machine.says("tail", "-n", "1", kept) == "# 2"
    direct_lab.client.run([*knock, "ssh", "--server-key", server_key, "--identity", identity, "--wait", "22"])
    machine.write("/etc/doorward/doorward.toml", CONFIGURATION, mode="640", owner="root:doorward")
    machine.run("systemctl", "reload", "doorward")
    machine.says("doorward", "status")

    # Off: the gate is gone, and neither unit brings it back.
    machine.run("doorward", "off")
    machine.run("systemctl", "start", "doorward-gate", "doorward")
    assert states(machine, "doorward") == ["inactive"]
    assert machine.says("nft", "list", "tables") == ""
    assert answers(direct_lab, source=STRANGER)
    machine.run("doorward", "on")
    assert states(machine, "doorward") == ["active"]
    assert not answers(direct_lab, source=STRANGER)

    # Removed: nothing is hidden any more, and what the administrator wrote is kept.
    machine.run("apt-get", "-q", "-y", "remove", "doorward")
    assert machine.says("nft", "list", "tables") == ""
    assert machine.says("find", "/proc", "-maxdepth", "1", "-user", "doorward") == ""
    assert answers(direct_lab, source=STRANGER)
    assert machine.says("cat", "/etc/doorward/doorward.toml") == CONFIGURATION.strip()
    assert machine.run("test", "-e", "/var/lib/doorward/ledger.sqlite3").returncode == 0

    # Purged: as if it had never been there, but for the users, which Debian keeps.
    purge(machine, "doorward", "doorward-client")
    assert changed(before, machine.files()) == USERS
    assert machine.says("grep", "-c", "^doorward:", *(f"/{path}" for path in sorted(USERS))).split() == [
        f"/{path}:1" for path in sorted(USERS)
    ]


def test_upgrade_from_the_package_with_its_own_libraries(
    built: Built, earlier: Path, machine: SystemdContainer, direct_lab: Lab
) -> None:
    before = machine.files()
    install(machine, built, earlier)
    without_signed = CONFIGURATION.partition("[signed]")[0]
    machine.write("/etc/doorward/doorward.toml", without_signed, mode="640", owner="root:doorward")
    direct_lab.server.start_greeter(22)
    direct_lab.client.add_addresses([STRANGER])
    machine.run("systemctl", "enable", "--now", "doorward-gate", "doorward")
    machine.run("doorward", "open", "ssh", direct_lab.client.ipv4)
    running = main_pid(machine, "doorward")
    assert answers(direct_lab)

    install(machine, built, built.client, built.doorward)
    assert states(machine, "doorward") == ["active"]
    assert main_pid(machine, "doorward") not in (running, 0)
    assert answers(direct_lab)
    assert not answers(direct_lab, source=STRANGER)
    assert machine.run("systemctl", "is-enabled", "doorward").stdout == "enabled\n"
    assert machine.run("test", "-e", "/usr/lib/doorward", check=False).returncode == 1
    assert machine.says("journalctl", "-q", "-u", "doorward", "-p", "warning", "-o", "cat") == ""

    purge(machine, "doorward", "doorward-client")
    assert changed(before, machine.files()) == USERS


def test_the_client_alone(built: Built, machine: SystemdContainer, direct_lab: Lab) -> None:
    before = machine.files()
    install(machine, built, built.client)
    assert machine.says("doorward", "--version") == f"doorward {__version__}"
    refused = machine.run("doorward", "run", check=False)
    assert (
        refused.stderr == "doorward: this is the client alone, without `doorward run`; install the package doorward\n"
    )
    for command in "add", "completion", "hold", "knock", "proxy", "verify":
        assert command in machine.says("man", f"doorward-{command}")
        assert machine.run("doorward", command, "--help").returncode == 0
    machine.run("doorward", "knock", direct_lab.client.ipv4, "7000", "8000/udp")
    assert machine.run("id", "doorward", check=False).returncode == 1
    assert machine.says("find", "/lib/systemd", "-name", "doorward*") == ""
    purge(machine, "doorward-client")
    assert changed(before, machine.files()) == set()


def test_replaces_knockd(built: Built, machine: SystemdContainer, direct_lab: Lab) -> None:
    # Debian's own knockd runs, as somebody has set it up.
    (debians,) = machine.says("find", "/", "-maxdepth", "1", "-name", "knockd_*.deb").splitlines()
    machine.run("apt-get", "-q", "-y", "install", debians)
    machine.write("/etc/knockd.conf", KNOCKD_CONF)
    machine.run("mkfifo", "/run/greeted")
    machine.run("systemctl", "enable", "--now", "knockd")
    theirs = main_pid(machine, "knockd")

    # doorward alone leaves it as it is.
    install(machine, built, built.client, built.doorward)
    assert main_pid(machine, "knockd") == theirs
    assert machine.says("dpkg", "-S", "/usr/sbin/knockd", "/usr/bin/knock").splitlines() == [
        "knockd: /usr/sbin/knockd",
        "knockd: /usr/bin/knock",
    ]

    # doorward-knockd replaces it, with its configuration, and continues at once.
    said = install(machine, built, built.knockd)
    assert "Removing knockd " in said
    assert "copy them before you purge it" in said
    assert states(machine, "knockd") == ["active"]
    assert main_pid(machine, "knockd") not in (theirs, 0)
    assert f"doorward {__version__}" in machine.says("knockd", "--version")
    assert machine.says("cat", "/etc/knockd.conf") == KNOCKD_CONF.strip()
    assert machine.says("systemctl", "is-enabled", "knockd") == "enabled"
    assert all("doorward" in machine.says("man", page) for page in ("knockd", "knock"))
    direct_lab.client.run([*DOORWARD, "knock", direct_lab.server.ipv4, "7000", "8000/udp", "9000"])
    assert machine.says("cat", "/run/greeted") == str(direct_lab.client.ipv4)  # waits until the command writes
    assert f"{direct_lab.client.ipv4}: greet: OPEN SESAME" in machine.says("cat", "/var/log/knockd.log")

    # And back again.
    machine.run("apt-get", "-q", "-y", "install", debians)
    assert machine.run("dpkg", "-s", "doorward-knockd", check=False).stdout.count("Status: deinstall ok") == 1
    assert machine.says("dpkg", "-S", "/usr/sbin/knockd") == "knockd: /usr/sbin/knockd"
    assert machine.says("nft", "list", "tables") == ""


def test_in_a_chroot(built: Built, direct_lab: Lab, tmp_path: Path) -> None:
    """A chroot, as images are made in: no systemd runs, and this host's gate is not touched."""
    (root,) = script("--root")
    steps = f"""
        mount -t tmpfs tmpfs {tmp_path}
        cd {tmp_path}
        mkdir upper work root
        mount -t overlay overlay -o lowerdir={root},upperdir=upper,workdir=work root
        mount -t proc proc root/proc
        cp {built.client} {built.doorward} {built.knockd} root/
        chroot root apt-get -q -y install /{built.client.name} /{built.doorward.name} /{built.knockd.name}
        chroot root doorward --version
        chroot root apt-get -q -y purge doorward doorward-client doorward-knockd
        ls -d root/etc/doorward root/var/lib/doorward root/usr/lib/python3/dist-packages/doorward 2>&1 || true
    """
    direct_lab.server.run(["nft", "add", "table", "inet", "doorward"])
    said = direct_lab.server.run(
        [
            "unshare",
            "--mount",
            "env",
            "-i",
            "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
            "LC_ALL=C.UTF-8",
            "sh",
            "-euc",
            steps,
        ],
        timeout_s=120,
    )
    assert f"doorward {__version__}" in said.stdout
    assert said.stdout.count("No such file or directory") == 3
    assert "table inet doorward" in direct_lab.server.run(["nft", "list", "tables"]).stdout


def test_the_packages_fields(built: Built) -> None:
    fields = {package: built.fields(package) for package in (built.client, built.doorward, built.knockd)}
    assert {one["Version"].partition("-")[0] for one in fields.values()} == {__version__}
    assert {one["Architecture"] for one in fields.values()} == {"all"}
    assert {name: fields[built.knockd].get(name) for name in ("Provides", "Conflicts", "Replaces")} == {
        "Provides": "knockd",
        "Conflicts": "knockd",
        "Replaces": "knockd",
    }
    assert fields[built.doorward].keys().isdisjoint({"Provides", "Conflicts", "Replaces"})
    assert {path for path in built.paths(built.doorward) if path.startswith("/etc") or "bin/knock" in path} == set()
    assert {"/usr/sbin/knockd", "/usr/bin/knock"} <= built.paths(built.knockd)


def test_they_are_small_and_contain_doorward_alone(built: Built) -> None:
    for package in built.client, built.doorward, built.knockd:
        assert package.stat().st_size < MOST_BYTES
        libraries = {path.split("/")[5] for path in built.paths(package) if path.count("/") > 4 and "dist-pack" in path}
        assert libraries <= {"doorward", f"doorward-{__version__}.dist-info"}


def test_programs_ignore_the_callers_python(built: Built, tmp_path: Path) -> None:
    for package in built.client, built.knockd:
        subprocess.run(["dpkg-deb", "-x", package, tmp_path], check=True)
    programs = [*tmp_path.glob("usr/bin/*"), *tmp_path.glob("usr/sbin/*")]
    first_lines = {path.name: path.read_text().partition("\n")[0] for path in programs}
    assert first_lines == dict.fromkeys(("doorward", "knock", "knockd"), "#!/usr/bin/python3 -I")


def test_nothing_tells_where_they_were_built(built: Built, tmp_path: Path) -> None:
    for package in built.client, built.doorward, built.knockd:
        subprocess.run(["dpkg-deb", "-R", package, tmp_path / package.stem], check=True)
    found = subprocess.run(["grep", "-rl", "-e", str(ROOT), "-e", "/build/source", tmp_path], capture_output=True)
    assert (found.returncode, found.stdout) == (1, b"")
