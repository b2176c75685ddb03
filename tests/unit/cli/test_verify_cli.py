"""`doorward verify` rejects invalid calls before it starts to scan."""

from __future__ import annotations

import re
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import pytest

from doorward.cli.main import main
from doorward.cli.verify import Display

HOME = """
[home]
address = "192.0.2.7"
[home.doors]
ssh = ["7000/tcp", "8000/udp"]
web = ["7001/tcp", "8001/udp"]
"""


@pytest.fixture(autouse=True)
def hosts_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    path = tmp_path / "doorward" / "hosts.toml"
    path.parent.mkdir()
    path.write_text(HOME)
    path.chmod(0o600)


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_wait_counts_down_on_a_terminal(is_terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = [100.0]
    clock = SimpleNamespace(monotonic=lambda: now_s[0], sleep=lambda s: now_s.append(now_s.pop() + s))
    screen = StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: is_terminal)
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setattr("doorward.cli.verify.time", clock)
    display = Display("never", as_json=False)
    display.set_status("waiting", 10.0)
    display.sleep(2.5)
    display.show_progress(50.0)
    assert re.findall(r"waiting \((\d+) s left\)", screen.getvalue()) == (
        ["10", "10", "9", "8", "8"] if is_terminal else []
    )
    assert now_s == [102.5]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["home", "ssh", "--ports", "ssh"], "--ports: invalid port 'ssh': expected 22, 1-1024, 7000/udp"),
        (["home", "ssh", "--expect", "0"], "--expect: invalid port '0': ports are 1 to 65535"),
        (["home", "ssh", "--port", "9-8"], "--port: invalid range '9-8': write 8-9"),
        (["home", "ssh", "--port", "80", "--expect", "80"], "80/tcp: listed in --expect (anyone may reach it)"),
        (["home"], "which door? "),
        (["home", "shs"], "did you mean 'ssh'?"),
        (["home", "--no-knock", "--port", "22"], "--port is what a knock must open, but no knock is given"),
        (["192.0.2.7", "--port", "22"], "--port is what a knock must open, but no knock is given"),
        (["home", "ssh", "--rate", "0"], "--rate: invalid rate 0; write 1 to 1000000 packets per second"),
        (["home", "ssh", "--for", "5"], "--for: invalid duration '5'; write the unit too: \"5s\""),
        (["home", "ssh", "--picture", "x.jpg"], "--picture: x.jpg: the file name must end in .svg"),
        (["home", "ssh", "--picture", "/nowhere/x.svg"], "--picture: no such directory: /nowhere; create it"),
        (["127.0.0.1", "--ports", "22"], "127.0.0.1 is this host, where every port is visible"),
        (["::1", "7000", "--ports", "22"], "::1 is this host, where every port is visible"),
    ],
)
def test_invalid_calls_fail_immediately(words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", *words]) == 2
    out, err = capsys.readouterr()
    assert says in err
    assert out in ("", "not root: connect scans instead of SYN scans; UDP needs root; run it with sudo\n")


def test_udp_needs_root(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert main(["verify", "192.0.2.7", "--ports", "53/udp"]) == 2
    assert "UDP needs root; run it with sudo, or leave /udp out" in capsys.readouterr().err


def test_nmap_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["verify", "192.0.2.7", "--ports", "22"]) == 2
    assert "the program `nmap` is missing; run `apt install nmap`" in capsys.readouterr().err


def test_nmap_error_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    nmap = tmp_path / "nmap"
    nmap.write_text(
        "#!/bin/sh\necho first >&2\necho 'Failed to open device \033[1m' >&2\necho 'QUITTING!' >&2\nexit 1\n"
    )
    nmap.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert main(["verify", "192.0.2.7", "--ports", "22"]) == 2
    assert "doorward: nmap failed with status 1: Failed to open device ?[1m\n" in capsys.readouterr().err


def test_a_program_that_is_not_nmap(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    nmap = tmp_path / "nmap"
    nmap.write_text("#!/bin/sh\necho 'this is not XML'\n")
    nmap.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert main(["verify", "192.0.2.7", "--ports", "22"]) == 2
    assert "doorward: nmap's XML cannot be read: syntax error" in capsys.readouterr().err
