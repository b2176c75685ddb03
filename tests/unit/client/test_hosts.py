"""hosts.toml: valid files, and error messages."""

from __future__ import annotations

import os
import re
from ipaddress import ip_network
from pathlib import Path

import pytest

from doorward.client.hosts import KnownHost, find_door, find_host, hosts_path, is_door, read_hosts
from doorward.errors import UsageError
from doorward.model import DEFAULT_SIGNED_PORT, Port

FULL = """
[home]
address = "192.0.2.7"
server_key = "a line of text"
signed_port = "62201/udp"
identity = "~/.ssh/id_ed25519"
certificate = "laptop-cert.pub"
gate = "paris"
from = "192.0.2.0/24"
for = "1h"
[home.doors]
ssh = ["7000/tcp", "8000:udp"]
db = []

["gate.example".doors]
web = ["1/tcp"]
"""


@pytest.fixture
def hosts_file(tmp_path: Path) -> Path:
    return tmp_path / "hosts.toml"


def write(path: Path, text: str) -> str:
    path.write_text(text)
    path.chmod(0o644)
    return str(path)


def test_every_key_is_read(hosts_file: Path) -> None:
    assert read_hosts(write(hosts_file, FULL)) == {
        "home": KnownHost(
            name="home",
            address="192.0.2.7",
            doors={"ssh": (Port.parse("7000/tcp"), Port.parse("8000/udp")), "db": ()},
            server_key="a line of text",
            signed_ports=(Port.parse("62201/udp"),),
            identity="~/.ssh/id_ed25519",
            certificate=str(hosts_file.parent / "laptop-cert.pub"),
            gate="paris",
            asked=ip_network("192.0.2.0/24"),
            for_s=3600,
        ),
        "gate.example": KnownHost("gate.example", "gate.example", {"web": (Port.parse("1/tcp"),)}),
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[home]\nadress = 'x'", "[home]: unknown key 'adress'; did you mean 'address'?"),
        ("[home]\ncolour = 'x'", "[home]: unknown key 'colour'; remove it"),
        ("[gate.example]\naddress = 'x'", "[gate]: unknown key 'example'; a host name with dots needs quotes: [\"gate"),
        ("[home]\naddress = 3", '[home]: address must be a string; write address = "..."'),
        ("[home]\nidentity = ''", "[home]: identity must be a string"),
        ("[home]\nsigned_port = true", '[home]: signed_port must be a string; write signed_port = "..."'),
        (
            "[home]\nsigned_port = 70000",
            "[home]: signed_port: port 70000 does not exist; write a number from 1 to",
        ),
        (
            "[home]\nsigned_port = '22/tcp'",
            "[home]: signed_port: 22/tcp is not a UDP port, which signed knocks need; write 22/",
        ),
        ("[home]\nsigned_port = []", '[home]: signed_port must be a string; write signed_port = "..."'),
        ("[home]\nsigned_port = [53, 5.3]", "[home]: signed_port must be a string"),
        ("[home]\nsigned_port = [53, '53/udp']", "[home]: signed_port: duplicate port 53/udp; write it once"),
        ("[home]\nfor = 30", '[home]: for must be a string; write for = "..."'),
        ("[home]\nfor = '30'", "[home]: for: invalid duration '30'; write the unit too: \"30s\""),
        ("[home]\nfor = '1500ms'", "[home]: for: '1500ms' is not a whole number of seconds; write e.g. \"2s\""),
        ("[home]\nfor = '999999d'", "[home]: for: '999999d' is longer than a knock can request; write a shorter time"),
        ("[home]\nfrom = 'here'", "[home]: from: invalid address 'here'; write e.g. \"192.0.2.7\", "),
        ("[home]\nfrom = '192.0.2.7/24'", "[home]: from: invalid address '192.0.2.7/24'"),
        ("[home]\ngate = 'a b'", "[home]: gate: invalid gate name 'a b'; use at most 64 letters, digits, - and _"),
        ("[home]\nserver_key = 'k'\n[home.doors]\n7000 = []", "[home]: door '7000': looks like a port"),
        ("address = 'x'", "[address] must be a table; write [address] and below it"),
        ("[home]\ndoors = 3", '[home]: doors must be a table; write DOOR = ["7000/tcp", ...] below [HOST.doors]'),
        ("[home.doors]\nssh = []", "[home]: door 'ssh': must be a list of ports; write ssh = ["),
        ("[home.doors]\nssh = '7000/tcp'", "[home]: door 'ssh': must be a list of ports"),
        ("[home.doors]\nssh = [7000]", "[home]: door 'ssh': invalid port '7000'; write it as 7000/tcp"),
        ("[home.doors]\nssh = ['70000/tcp']", "[home]: door 'ssh': port 70000 does not exist"),
        ("[home.doors]\n7000 = ['1/tcp']", "[home]: door '7000': looks like a port"),
        ("[home", "not TOML: "),
        ("x = " + "[" * 5000, "not TOML: "),
        ("x = " + "9" * 5000, "not TOML: "),
    ],
)
def test_each_fault_has_a_message(hosts_file: Path, text: str, message: str) -> None:
    path = write(hosts_file, text)
    with pytest.raises(UsageError, match=re.escape(f"{path}: {message}")):
        read_hosts(path)


@pytest.mark.parametrize("port", ['"62201/udp"', '"62201"', "62201", '["62201/udp"]'])
def test_the_signed_port_may_be_a_number(hosts_file: Path, port: str) -> None:
    path = write(hosts_file, f"[home]\nsigned_port = {port}")
    assert read_hosts(path)["home"].signed_ports == (Port.parse("62201/udp"),)


def test_several_signed_ports(hosts_file: Path) -> None:
    path = write(hosts_file, '[home]\nsigned_port = ["62201/udp", 443, "53"]\n[work]')
    hosts = read_hosts(path)
    assert list(map(str, hosts["home"].signed_ports)) == ["62201/udp", "443/udp", "53/udp"]
    assert hosts["work"].signed_ports == (DEFAULT_SIGNED_PORT,)


def test_door_without_a_sequence_is_an_error(hosts_file: Path) -> None:
    path = write(hosts_file, FULL)
    with pytest.raises(UsageError, match="door 'db' of host 'home' has no port sequence; it needs a signed knock"):
        find_door(path, read_hosts(path), "home", "db")


def test_invalid_utf8_is_an_error(hosts_file: Path) -> None:
    hosts_file.write_bytes(b"\xff\xfe")
    hosts_file.chmod(0o600)
    with pytest.raises(UsageError, match="not TOML"):
        read_hosts(str(hosts_file))


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666])
def test_file_writable_by_others_is_rejected(hosts_file: Path, mode: int) -> None:
    path = write(hosts_file, FULL)
    hosts_file.chmod(mode)
    with pytest.raises(UsageError, match=re.escape(f"{path}: other users can write it; run `chmod go-w {path}`")):
        read_hosts(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a file away needs root")
def test_file_of_another_user_is_rejected(hosts_file: Path) -> None:
    path = write(hosts_file, FULL)
    os.chown(path, 65534, 65534)
    with pytest.raises(UsageError, match="owned by another user"):
        read_hosts(path)


def test_pipe_is_rejected_without_blocking(hosts_file: Path) -> None:
    os.mkfifo(hosts_file, 0o600)
    with pytest.raises(UsageError, match="not a regular file"):
        read_hosts(str(hosts_file))


def test_directory_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a regular file"):
        read_hosts(str(tmp_path))


def test_missing_file_has_no_hosts_and_the_message_has_an_example(hosts_file: Path) -> None:
    path = str(hosts_file)
    assert read_hosts(path) == {}
    with pytest.raises(UsageError) as raised:
        find_host(path, {}, "gate.example")
    said, _, example = str(raised.value).partition("for example:")
    assert path in said
    assert "give ports (7000 8000/udp 9000)" in said
    assert read_hosts(write(hosts_file, example))["gate.example"].address == "192.0.2.7"  # valid as printed


@pytest.mark.parametrize(
    ("host", "door", "message"),
    [
        ("hone", "ssh", "no host 'hone'; did you mean 'home'?"),
        ("zzz", "ssh", "no host 'zzz'; known hosts: gate.example, home"),
        ("home", "sshd", "host 'home' has no door 'sshd'; did you mean 'ssh'?"),
        ("home", "web", "host 'home' has no door 'web'; known doors: db, ssh"),
    ],
)
def test_unknown_host_or_door_lists_known_ones(hosts_file: Path, host: str, door: str, message: str) -> None:
    path = write(hosts_file, FULL)
    with pytest.raises(UsageError, match=re.escape(f"{path}: {message}")):
        find_door(path, read_hosts(path), host, door)


def test_a_host_without_doors(hosts_file: Path) -> None:
    path = write(hosts_file, "[home]\naddress = '192.0.2.7'")
    with pytest.raises(UsageError, match=re.escape("has no door 'ssh'; add it below [home.doors]")):
        find_door(path, read_hosts(path), "home", "ssh")


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        ("/etc/xdg", "/etc/xdg/doorward/hosts.toml"),
        ("", "/home/me/.config/doorward/hosts.toml"),
        ("relative", "/home/me/.config/doorward/hosts.toml"),
    ],
)
def test_path_of_hosts_file(monkeypatch: pytest.MonkeyPatch, base: str, expected: str) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("XDG_CONFIG_HOME", base)
    assert hosts_path() == expected


@pytest.mark.parametrize(
    ("word", "door"), [("ssh", True), ("7000x", True), ("7000", False), ("7/tcp", False), ("a:udp", False)]
)
def test_is_door_distinguishes_names_from_ports(word: str, door: bool) -> None:
    assert is_door(word) is door
