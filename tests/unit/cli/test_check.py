import json
from pathlib import Path

import pytest

from doorward.cli.main import main
from tests.support import ssh_keygen
from tests.support.signed import Signed

STRONG = """\
[gate]
mode = "stealth"
[doors.a]
knock = ["7013/tcp", "9241/udp", "8116/tcp", "6907/udp"]
opens = ["8022/tcp"]
"""
WEAK = """\
[gate]
mode = "guard"
[doors.a]
knock = ["7013/tcp"]
opens = ["8022/tcp"]
[doors.b]
opens = ["23/tcp"]
"""
WRONG = "[gate]\nmode = 1\n[doors.a]\n"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "doorward.toml"


@pytest.mark.parametrize(
    ("text", "status", "out", "errors"),
    [
        (STRONG, 0, "doorward.toml: good: 1 door, 1 automaton, mode stealth; 1 note\n", ["1: note: capacity"]),
        (
            WEAK,
            0,
            "doorward.toml: good: 2 doors, 1 automaton, mode guard; 1 warning, 3 notes\n",
            ["4: warning: door 'a' has 1", "1: note: capacity", "2: note: mode guard", "7: note: door 'b'"],
        ),
        (
            WRONG,
            2,
            "doorward.toml: invalid: 2 errors\n",
            ["2: error: mode: 1 is unknown; write ", "3: error: door 'a': `opens` is missing; name"],
        ),
        ("\0", 2, "doorward.toml: invalid: 1 error\n", ["1: error: a NUL byte is in the file; save "]),
    ],
)
def test_lines(
    text: str, status: int, out: str, errors: list[str], file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text(text)
    assert main(["check", "-v", "-c", "doorward.toml"]) == status
    printed = capsys.readouterr()
    assert printed.out == out
    lines = printed.err.splitlines()
    assert len(lines) == len(errors)
    for line, start in zip(lines, errors, strict=True):
        assert line.startswith(f"doorward.toml:{start}")


def test_json_of_a_weak_file(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(WEAK)
    assert main(["check", "--json", "-c", "doorward.toml"]) == 0
    printed = capsys.readouterr()
    answer = json.loads(printed.out)
    assert printed.err == ""
    assert {key: answer[key] for key in ("file", "ok", "doors", "faults")} == {
        "file": "doorward.toml",
        "ok": True,
        "doors": 2,
        "faults": [],
    }
    assert [(finding["level"], finding["line"]) for finding in answer["warnings"]] == [
        ("warning", 4),
        ("note", 1),
        ("note", 2),
        ("note", 7),
    ]
    assert set(answer["warnings"][0]) == {"code", "level", "file", "line", "what", "remedy"}
    (rated,) = answer["strength"]  # door b opens by hand only
    assert (rated["door"], rated["knocks"], rated["ports"]) == ("a", 1, 65535)
    assert rated["one_source"] == rated["many_sources"] == 1.0


def test_json_of_a_wrong_file(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text("\n[gate]\nping = 1\n")
    assert main(["check", "--json", "-c", "doorward.toml"]) == 2
    fault = {
        "code": "not-a-boolean",
        "line": 3,
        "what": "ping: 1 is neither true nor false",
        "instead": "write true or false, without quotes",
    }
    assert json.loads(capsys.readouterr().out) == {
        "version": 1,
        "file": "doorward.toml",
        "ok": False,
        "doors": 0,
        "faults": [fault],
        "warnings": [],
        "strength": [],
    }


def test_the_default_file(file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONFIGURATION_DIRECTORY", str(file.parent))
    file.write_text(STRONG)
    assert main(["check"]) == 0
    assert capsys.readouterr().out.startswith(f"{file}: good: ")


def test_no_file(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "-c", "none.toml"]) == 2
    assert capsys.readouterr().err == ("doorward: none.toml: no such file; create it, or name another one\n")


def test_key_findings_name_authorized_keys(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(STRONG + "[signed]\n")
    wide = f'addresses="::/0" {ssh_keygen.public_line(ssh_keygen.key("ed25519"))}'
    Signed(file.parent).authorize("# who may knock", wide)
    assert main(["check", "-c", "doorward.toml"]) == 0
    printed = capsys.readouterr()
    assert printed.err.splitlines()[-1] == (
        "authorized_keys:2: warning: key ed25519 number 0: may open doors for all of ::/0, not only for where it is; "
        "write the networks that it is used from"
    )
    assert printed.out.endswith("mode stealth; 1 warning\n")
    assert main(["check", "--json", "-c", "doorward.toml"]) == 0
    findings = json.loads(capsys.readouterr().out)["warnings"]
    assert [(finding["file"], finding["line"]) for finding in findings] == [
        ("authorized_keys", 2),
        ("doorward.toml", 1),
        ("doorward.toml", 4),  # a sequence opens the door too
        ("doorward.toml", 6),  # the gate has no name
    ]
