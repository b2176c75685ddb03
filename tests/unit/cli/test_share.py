"""`doorward share`: sharing a door with another device."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from doorward.cli.main import main
from doorward.client.link_uri import parse_link
from tests.support.signed import Signed, Signer

TEXT = """\
[doors.ssh]
knock = ["7013/tcp", "9241/udp", "8116/tcp"]
opens = ["22/tcp"]
[doors.db]
opens = ["5432/tcp"]
[doors.odd]
knock = ["7019/tcp", "8119/udp"]
flags = ["fin", "!syn"]
opens = ["80/tcp"]
[doors.wake]
knock = ["4001/tcp", "4127/tcp"]
target = "192.0.2.9"
on_open = ["/usr/bin/true"]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "doorward.toml"
    path.write_text(TEXT)
    return path


@pytest.fixture
def signed(file: Path) -> Signed:
    file.write_text(f"{TEXT}[signed]\n")
    return Signed(file.parent, Signer("laptop"))


def share(capsys: pytest.CaptureFixture[str], file: Path, *words: str, status: int = 0) -> str:
    assert main(["share", *words, "-c", str(file)]) == status
    printed = capsys.readouterr()
    return printed.err if status else printed.out


def test_a_link(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert share(capsys, file, "ssh", "--host", "server.example") == (
        "doorward://server.example/?seq=ssh:7013/tcp,9241/udp,8116/tcp\n"
    )


def test_a_link_with_the_servers_key(file: Path, signed: Signed, capsys: pytest.CaptureFixture[str]) -> None:
    for door, knocks in (("ssh", 3), ("db", 0), ("odd", 0)):
        link = parse_link(share(capsys, file, door, "--host", "192.0.2.7").strip())
        assert link.key == str(signed.server.public)
        ((name, sequence),) = link.doors
        assert (name, len(sequence)) == (door, knocks)


def test_a_code_for_a_camera(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = share(capsys, file, "ssh", "--host", "server.example", "--format", "qr").splitlines()
    assert lines[0].startswith("doorward://server.example/?seq=ssh:")
    assert len({len(line) for line in lines[1:]}) == 1
    assert set("".join(lines[1:])) <= set("█▀▄ ")


def test_the_android_app(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(share(capsys, file, "ssh", "--host", "192.0.2.7", "--format", "knockonports"))
    assert [step["port"] for step in found["sequences"][0]["steps"]] == [7013, 9241, 8116]
    found = json.loads(share(capsys, file, "wake", "--format", "knockonports"))
    assert found["sequences"][0]["host"] == "192.0.2.9"  # the target is where its knocks go


def test_knockd(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert share(capsys, file, "ssh", "--host", "192.0.2.7", "--format", "knockd") == (
        "# a door of 192.0.2.7\n[ssh]\n    sequence = 7013:tcp,9241:udp,8116:tcp\n    seq_timeout = 15\n"
        "    tcpflags = syn,!ack\n"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["shs"], "unknown door 'shs'; did you mean 'ssh'?"),
        (["nothing"], "unknown door 'nothing'; its doors are ssh, db, odd, wake"),
        (["db"], "door 'db' has no sequence, and no key may send signed knocks"),
        (["db", "--format", "knockonports"], "door 'db' has no sequence; share it as a link"),
        (["odd"], "door 'odd': its `flags` (fin,!syn) do not match a plain SYN, and clients send nothing else"),
        (
            ["odd", "--format", "knockd"],
            "door 'odd': its `flags` (fin,!syn) do not match a plain SYN, the only packet that apps send",
        ),
        (["wake"], "door 'wake' listens for 192.0.2.9; share it with --format knockonports or knockd"),
        (["ssh", "--host", "a b"], "invalid host 'a b'"),
        (["ssh", "--sequence"], "--sequence, --link and --title are for --page"),
        (["ssh", "--title", "home"], "--sequence, --link and --title are for --page"),
    ],
)
def test_unshareable_doors(file: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    assert message in share(capsys, file, *words, status=2)


def test_default_address(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert parse_link(share(capsys, file, "ssh").strip()).host


def test_a_page(file: Path, signed: Signed, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--page", "ssh", "db", "--host", "192.0.2.7", "2001:db8::7", "--link", "ssh=ssh://alice@192.0.2.7")
    page = share(capsys, file, *words)
    assert page.startswith("<!doctype html>")
    assert str(signed.server.public) in page
    assert all(word in page for word in ('"name": "db"', '"2001:db8::7"', '"ssh://alice@192.0.2.7"'))
    assert share(capsys, file, "--worker").startswith("// Service worker")


def test_page_without_keys(file: Path, signed: Signed, capsys: pytest.CaptureFixture[str]) -> None:
    signed.authorize()
    assert share(capsys, file, "--page", "ssh", "--host", "192.0.2.7").startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no door given; the doors of"),
        (["ssh", "db"], "only --page takes several doors or addresses"),
        (["ssh", "--host", "192.0.2.7", "192.0.2.8"], "only --page takes several doors or addresses"),
        (["--page", "ssh", "--host", "server.example"], "a page needs addresses, not names"),
        (["--page", "ssh", "--host", "fe80::1%eth0"], "without a scope id"),
        (["--page", "ssh", "--link", "ssh=javascript:alert(1)"], "--link: invalid link"),
        (["--page", "ssh", "--link", "shs=ssh://a"], "did you mean 'ssh'?"),
    ],
)
def test_invalid_pages(
    file: Path, signed: Signed, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert message in share(capsys, file, *words, status=2)


def test_page_needs_signed_knocks(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "add [signed], or use --sequence" in share(capsys, file, "--page", "ssh", status=2)


def test_page_with_sequences(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = share(capsys, file, "--page", "--sequence", "ssh", "--host", "192.0.2.7")
    assert '"steps": [["tcp", 7013], ["udp", 9241], ["tcp", 8116]], "pause": 250' in page
    assert "door 'db' has no sequence that a browser" in share(capsys, file, "--page", "--sequence", "db", status=2)


@pytest.mark.parametrize("is_for_browsers", [False, True])
def test_page_for_a_gate_that_takes_no_browsers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], is_for_browsers: bool
) -> None:
    Signed(tmp_path)
    config = tmp_path / "doorward.toml"
    config.write_text(f"[signed]\nbrowser = {str(is_for_browsers).lower()}\n{TEXT}")
    assert main(["share", "--page", "ssh", "--host", "192.0.2.7", "-c", str(config)]) == 0
    output = capsys.readouterr()
    assert output.out.startswith("<!doctype html>")
    assert ("browser = true" in output.err) is not is_for_browsers
