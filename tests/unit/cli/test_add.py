"""`doorward add`: the resulting hosts.toml, the output, and invalid calls."""

from __future__ import annotations

import builtins
from pathlib import Path

import pytest

from doorward.cli.main import main
from doorward.client.hosts import KnownHost, read_hosts
from doorward.client.link_uri import parse_link
from doorward.libraries import install_command
from doorward.model import DEFAULT_SIGNED_PORT, Port
from doorward.signed.server_key import X25519, generate_private_text, parse_private_key
from tests.support.signed import SUITES_HERE
from tests.support.ssh_keygen import key

KEY = str(parse_private_key(generate_private_text(X25519)).public)
LONG_KEY = str(parse_private_key(generate_private_text(SUITES_HERE[-1])).public)  # hybrid where that is supported


@pytest.fixture
def hosts_file(empty_ssh_directory: Path) -> Path:
    return empty_ssh_directory.parent / ".config" / "doorward" / "hosts.toml"


def only_host(path: Path) -> KnownHost:
    (host,) = read_hosts(str(path)).values()
    return host


def test_server_key_suffices(hosts_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["add", "gate.example", "--server-key", KEY]) == 0
    assert only_host(hosts_file) == KnownHost("gate.example", "gate.example", {}, server_key=KEY)
    assert capsys.readouterr().out == (
        f"added 'gate.example' to {hosts_file}\n"
        "\nfor ~/.ssh/config (or add it with --ssh):\n\n"
        "    Host gate.example\n        ProxyCommand doorward proxy --fdpass %h %p\n        ProxyUseFdpass yes\n"
        "\nto try it:\n\n    doorward knock gate.example ssh -v --wait 22\n"
    )


def test_every_option_is_saved(hosts_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(key("ed25519").parent)
    words = ["--address", "192.0.2.7", "--server-key", KEY, "--signed-port", "1234", "--gate", "paris"]
    more = ["--identity", key("ed25519").name, "--from", "auto", "--for", "1h", "--door", "web"]
    assert main(["add", "home", *words, *more, "--door", "db:7000/tcp,8000:udp"]) == 0
    host = only_host(hosts_file)
    assert host.asked is not None
    assert host._replace(asked=None) == KnownHost(
        "home",
        "192.0.2.7",
        {"web": (), "db": (Port.parse("7000/tcp"), Port.parse("8000/udp"))},
        server_key=KEY,
        signed_ports=(Port.parse("1234/udp"),),
        identity=str(key("ed25519")),  # the whole path, for it is used from elsewhere
        gate="paris",
        for_s=3600,
    )


def test_link_suffices(hosts_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    link = f"doorward://192.0.2.7:1234/?key={KEY.replace('+', '%2B')}&gate=paris&door=db"
    assert main(["add", link, "--name", "home", "--identity", str(key("ed25519"))]) == 0
    host = only_host(hosts_file)
    assert (host.name, host.address, host.server_key, host.gate) == ("home", "192.0.2.7", KEY, "paris")
    assert (host.signed_ports, host.doors, host.identity) == (
        (Port.parse("1234/udp"),),
        {"db": ()},
        str(key("ed25519")),
    )
    assert "    doorward knock home db -v\n" in capsys.readouterr().out


def test_several_signed_ports_come_back_in_the_link(hosts_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--address", "192.0.2.7", "--server-key", KEY, "--signed-port", "62201,443/udp", "--door", "db", "--qr"]
    assert main(["add", "home", *words]) == 0
    assert 'signed_port = ["62201/udp", "443/udp"]\n' in hosts_file.read_text()
    link = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("doorward://"))
    assert main(["add", link, "--name", "work"]) == 0
    hosts = read_hosts(str(hosts_file))
    assert hosts["work"].signed_ports == hosts["home"].signed_ports == (DEFAULT_SIGNED_PORT, Port.parse("443/udp"))


def test_a_gate_that_confirms_says_so_in_its_link(hosts_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--address", "192.0.2.7", "--server-key", KEY, "--confirm", "--door", "db", "--qr"]
    assert main(["add", "home", *words]) == 0
    assert "confirm = true\n" in hosts_file.read_text()
    link = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("doorward://"))
    assert "&confirm=yes" in link
    assert main(["add", link, "--name", "work"]) == 0
    assert read_hosts(str(hosts_file))["work"].confirm


def test_link_without_name_uses_its_host(hosts_file: Path) -> None:
    assert main(["add", "doorward://gate.example/?seq=ssh:7000/tcp"]) == 0
    assert only_host(hosts_file) == KnownHost("gate.example", "gate.example", {"ssh": (Port.parse("7000/tcp"),)})


def test_ssh_option_updates_ssh_config(hosts_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = hosts_file.parents[2] / ".ssh/config"
    lines = "Host home\n    ProxyCommand doorward proxy --fdpass %h %p\n    ProxyUseFdpass yes\n"
    assert main(["add", "home", "--server-key", KEY, "--ssh"]) == 0
    assert settings.read_text() == lines
    assert capsys.readouterr().out.endswith(f"`ssh home` now knocks first: {settings} is updated\n")
    assert main(["add", "home", "--server-key", LONG_KEY, "--ssh", "--replace"]) == 0
    assert settings.read_text() == lines


def test_conflicting_ssh_config_prevents_adding(hosts_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = hosts_file.parents[2] / ".ssh/config"
    settings.parent.mkdir(exist_ok=True)
    settings.write_text("Host home\n  User me\n")
    assert main(["add", "home", "--server-key", KEY, "--ssh"]) == 2
    assert "already has a Host home; omit --ssh" in capsys.readouterr().err
    assert settings.read_text() == "Host home\n  User me\n"
    assert not hosts_file.exists()


def test_existing_host_needs_replace(hosts_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["add", "home", "--server-key", KEY]) == 0
    assert main(["add", "home", "--server-key", LONG_KEY]) == 2
    assert "already has the host 'home'; use --replace" in capsys.readouterr().err
    assert only_host(hosts_file).server_key == KEY
    assert main(["add", "home", "--server-key", LONG_KEY, "--replace"]) == 0
    assert only_host(hosts_file).server_key == LONG_KEY
    assert f"; the previous file is {hosts_file}.before" in capsys.readouterr().out


@pytest.mark.parametrize("server_key", [KEY, LONG_KEY], ids=["x25519", "hybrid"])
def test_printed_link_round_trips(hosts_file: Path, capsys: pytest.CaptureFixture[str], server_key: str) -> None:
    words = ["--address", "2001:db8::7", "--signed-port", "99", "--gate", "paris", "--door", "a", "--door", "b:1/udp"]
    assert main(["add", "home", "--server-key", server_key, *words, "--qr"]) == 0
    shown = [line for line in capsys.readouterr().out.splitlines() if line.startswith("doorward://")]
    before = only_host(hosts_file)
    hosts_file.unlink()
    assert main(["add", shown[0], "--name", "home"]) == 0
    assert only_host(hosts_file) == before


def test_qr_code_of_known_host(hosts_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["add", "home", "--server-key", KEY]) == 0
    before = hosts_file.read_bytes()
    capsys.readouterr()
    assert main(["add", "home", "--qr"]) == 0
    link, *rows = capsys.readouterr().out.splitlines()
    assert parse_link(link).key == KEY
    assert {len(row) for row in rows} == {2 * len(rows) - 1}  # a square of half blocks
    assert set("".join(rows)) == set(" ▀▄█")
    assert hosts_file.read_bytes() == before


def test_without_segno_prints_link_and_remedy(
    hosts_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without_segno(name: str, *rest: object) -> object:
        if name == "segno":
            raise ImportError(name)
        return real(name, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without_segno)
    assert main(["add", "home", "--server-key", KEY, "--qr"]) == 2
    out, err = capsys.readouterr()
    assert out.splitlines()[-1].startswith("doorward://home/?key=x25519:")
    assert f"`{install_command('segno')}`, or send the link\n" in err
    assert only_host(hosts_file).name == "home"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["home"],
            "nothing to knock with; add --server-key KEY, the line that `doorward key server` prints on the server",
        ),
        (["home", "--door", "ssh"], "a door without a sequence opens with a signed knock only; add --server-key KEY"),
        (
            ["home", "--server-key", "x"],
            "invalid server key: a server's key begins with x25519:… or mlkem768-x25519:…; copy",
        ),
        (["home", "--server-key", KEY, "--door", "22"], "--door: invalid door name '22'"),
        (["home", "--server-key", KEY, "--door", "a:7000"], "--door: invalid port '7000'; write it as 7000/tcp or"),
        (["home", "--server-key", KEY, "--for", "1"], "--for: invalid duration '1'"),
        (["home", "--server-key", KEY, "--from", "x"], "--from: invalid address 'x'"),
        (["home", "--server-key", KEY, "--gate", "a b"], "--gate: invalid gate name 'a b'"),
        (["home", "--server-key", KEY, "--signed-port", "1/tcp"], "--signed-port: 1/tcp is not a UDP port"),
        (["home", "--server-key", KEY, "--identity", "/none"], "--identity: no such file: /none; name the one that"),
        (["home", "--name", "x", "--server-key", KEY], "--name is for links; write the name as HOST"),
        (["http://h"], "'http://h' is not a doorward:// link; copy the line that `doorward init` or"),
        (["https://h", "--name", "h"], "is not a doorward:// link"),
        (["", "--server-key", KEY], "invalid host name ''; use one like home"),
        (["a\x1b[2J", "--server-key", KEY], "invalid host name"),
        (["doorward://h/?key=x"], "invalid server key 'x' in the link; copy the whole link, in single quotes"),
        (["doorward://h"], "not a doorward link; links begin with doorward://HOST/?key=; copy the whole link, in"),
        (["home", "--qr"], "names no host"),
    ],
)
def test_invalid_call_exits_with_2(
    hosts_file: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert main(["add", *words]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("doorward: ")
    assert message in captured.err
    assert captured.out == ""
    assert not hosts_file.exists()
