"""hosts.toml: valid files, and error messages."""

from __future__ import annotations

import os
from ipaddress import ip_network
from pathlib import Path

import pytest

from doorward.client.hosts import KnownHost, find_door, find_host, hosts_path, is_door, read_hosts
from doorward.errors import UsageError
from doorward.model import DEFAULT_SIGNED_PORT, Port
from tests.support.errors import raises

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
confirm = true
once = true
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
            confirm=True,
            once=True,
        ),
        "gate.example": KnownHost("gate.example", "gate.example", {"web": (Port.parse("1/tcp"),)}),
    }


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("[home]\nadress = 'x'", "unknown-key"),
        ("[home]\ncolour = 'x'", "unknown-key"),
        ("[gate.example]\naddress = 'x'", "unknown-key"),
        ("[home]\naddress = 3", "not-a-string"),
        ("[home]\nidentity = ''", "not-a-string"),
        ("[home]\nsigned_port = true", "not-a-string"),
        (
            "[home]\nsigned_port = 70000",
            "port-range",
        ),
        (
            "[home]\nsigned_port = '22/tcp'",
            "not-udp-port",
        ),
        ("[home]\nsigned_port = []", "not-a-string"),
        ("[home]\nsigned_port = [53, 5.3]", "not-a-string"),
        ("[home]\nsigned_port = [53, '53/udp']", "duplicate-port"),
        ("[home]\nfor = 30", "not-a-string"),
        ("[home]\nconfirm = 'yes'", "not-a-boolean"),
        ("[home]\nfor = '30'", "invalid-duration"),
        ("[home]\nfor = '1500ms'", "not-whole-seconds"),
        ("[home]\nfor = '999999d'", "duration-too-long"),
        ("[home]\nfrom = 'here'", "invalid-address"),
        ("[home]\nfrom = '192.0.2.7/24'", "invalid-address"),
        ("[home]\ngate = 'a b'", "invalid-gate-name"),
        ("[home]\nserver_key = 'k'\n[home.doors]\n7000 = []", "door-name-is-port"),
        ("address = 'x'", "not-a-table"),
        ("[home]\ndoors = 3", "doors-not-table"),
        ("[home.doors]\nssh = []", "not-a-list"),
        ("[home.doors]\nssh = '7000/tcp'", "not-a-list"),
        ("[home.doors]\nssh = [7000]", "invalid-port"),
        ("[home.doors]\nssh = ['70000/tcp']", "port-range"),
        ("[home.doors]\n7000 = ['1/tcp']", "door-name-is-port"),
        ("[home", "not-toml"),
        ("x = " + "[" * 5000, "not-toml"),
        ("x = " + "9" * 5000, "not-toml"),
    ],
)
def test_each_fault_has_a_message(hosts_file: Path, text: str, code: str) -> None:
    path = write(hosts_file, text)
    with raises(UsageError, code):
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
    with raises(UsageError, "no-sequence"):
        find_door(path, read_hosts(path), "home", "db")


def test_invalid_utf8_is_an_error(hosts_file: Path) -> None:
    hosts_file.write_bytes(b"\xff\xfe")
    hosts_file.chmod(0o600)
    with raises(UsageError, "not-toml"):
        read_hosts(str(hosts_file))


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666])
def test_file_writable_by_others_is_rejected(hosts_file: Path, mode: int) -> None:
    path = write(hosts_file, FULL)
    hosts_file.chmod(mode)
    with raises(UsageError, "writable-by-others"):
        read_hosts(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a file away needs root")
def test_file_of_another_user_is_rejected(hosts_file: Path) -> None:
    path = write(hosts_file, FULL)
    os.chown(path, 65534, 65534)
    with raises(UsageError, "foreign-owner"):
        read_hosts(path)


def test_pipe_is_rejected_without_blocking(hosts_file: Path) -> None:
    os.mkfifo(hosts_file, 0o600)
    with raises(UsageError, "not-regular-file"):
        read_hosts(str(hosts_file))


def test_directory_is_rejected(tmp_path: Path) -> None:
    with raises(UsageError, "not-regular-file"):
        read_hosts(str(tmp_path))


def test_missing_file_has_no_hosts_and_the_message_says_how_to_add_one(hosts_file: Path) -> None:
    path = str(hosts_file)
    assert read_hosts(path) == {}
    with pytest.raises(UsageError) as raised:
        find_host(path, {}, "gate.example")
    assert raised.value.code == "no-hosts"
    for part in (path, "give ports: 7000 8000/udp 9000", "`doorward init`", "`doorward add LINK"):
        assert part in str(raised.value)


@pytest.mark.parametrize(
    ("host", "door", "code"),
    [
        ("hone", "ssh", "unknown-host"),
        ("zzz", "ssh", "unknown-host"),
        ("home", "sshd", "unknown-door"),
        ("home", "web", "unknown-door"),
    ],
)
def test_unknown_host_or_door_lists_known_ones(hosts_file: Path, host: str, door: str, code: str) -> None:
    path = write(hosts_file, FULL)
    with raises(UsageError, code):
        find_door(path, read_hosts(path), host, door)


def test_a_host_without_doors(hosts_file: Path) -> None:
    path = write(hosts_file, "[home]\naddress = '192.0.2.7'")
    with raises(UsageError, "unknown-door"):
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
