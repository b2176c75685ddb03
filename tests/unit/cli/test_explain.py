"""`doorward explain` on the command line: 80 columns, messages, standard input."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from doorward.cli.main import main
from doorward.json_form import iso_time
from doorward.packets.pcap import CapturedFrame
from tests.support.captures import BEGAN_NS, script
from tests.support.processes import running
from tests.support.tcpdump import write_pcap

DOORS = """
[doors.ssh]
knock = ["7000/tcp", "8000/udp", "9000/tcp"]
within = "5s"
opens = ["22/tcp"]
[doors.a-door-with-a-name-that-is-as-long-as-a-name-may-be-in-doorward]
knock = ["7101/tcp", "7102/tcp", "7103/tcp"]
opens = ["2201/tcp", "2202/tcp", "2203/tcp", "2204/tcp"]
"""
LATE = "0 7000/tcp; 0.01 8000/udp; 6.2 9000/tcp"


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CONFIGURATION_DIRECTORY", str(tmp_path))
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))
    monkeypatch.setenv("TZ", "UTC")
    path = tmp_path / "doorward.toml"
    path.write_text(DOORS)
    return path


def frames(text: str) -> list[CapturedFrame]:
    return [CapturedFrame(BEGAN_NS + round(sent.at_s * 1e9), 101, sent.raw, len(sent.raw)) for sent in script(text)]


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    return write_pcap(tmp_path / "knock.pcap", frames(LATE))


def test_columns_and_diagnosis(capture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", str(capture)]) == 1
    out, err = capsys.readouterr()
    assert err == ""
    head, *lines = out.splitlines()
    assert re.fullmatch(r"192\.0\.2\.7 at 198\.51\.100\.2, 2026-05-01 \d\d:\d\d:09", head)
    assert lines == [
        "   0.000  SYN 7000/tcp  knock 1 of 3 for ssh                             ssh 1/3",
        "   0.010  8000/udp      knock 2 of 3 for ssh                             ssh 2/3",
        "   6.200  SYN 9000/tcp  too late, 6.2 s after the first (within 5s):     start",
        "                        back to the start",
        "=> the third knock came 6.2 s after the first; `within` is 5s",
        "   hint: knock faster, or increase `within`",
        "",
    ]


def test_json(capture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "--json", str(capture)]) == 1
    (line,) = capsys.readouterr().out.splitlines()
    answer = json.loads(line)
    assert answer["conclusion"] == {
        "kind": "late",
        "what": "the third knock came 6.2 s after the first; `within` is 5s",
        "remedy": "knock faster, or increase `within`",
    }
    assert (answer["source"], answer["door"], answer["opened"], answer["also"]) == ("192.0.2.7", "ssh", False, [])
    assert answer["packets"][2] == {
        "number": 3,
        "at": iso_time(BEGAN_NS / 1e9 + 6.2),
        "packet": "SYN 9000/tcp",
        "verdict": "wrong",
        "made_of": "too late, 6.2 s after the first (within 5s): back to the start",
        "state": "start",
    }


@pytest.mark.parametrize(
    "text",
    [
        "0 7101/tcp; 1 7102/tcp; 2 7103/tcp; 3 2201/tcp sport=5; 4 <2201/tcp RA sport=5",
        "0 7101/tcp FSRPAEW; 1 7102/tcp; 2 9/tcp; 40000 7103/tcp; 40001 piece; 40002 7101/tcp to=192.0.2.9",
        "0 7101/tcp from=2001:db8:1234:5678:9abc:def0:1234:5678 to=2001:db8:aaaa:bbbb:cccc:dddd:eeee:ffff; 1 7102/tcp",
    ],
)
def test_output_fits_80_columns(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["explain", str(write_pcap(tmp_path / "x", frames(text)))])
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if len(line) > 80 and "2001:db8" not in line] == []
    assert "a-door-with-a-name" in out.replace("\n", "").replace(" ", "")


def test_truncated_repeat_still_shows_opening(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    knock = "; ".join(f"{at} 7000/tcp; {at}.1 8000/udp; {at}.2 9000/tcp" for at in (0, 40, 80))
    path = str(write_pcap(tmp_path / "x", frames(f"{knock}; 120 7000/tcp; 120.1 8000/udp")))
    assert main(["explain", path]) == 0
    shown = capsys.readouterr().out
    assert shown.count("opens ssh") == 3
    line = " ".join(shown.partition("=> ")[2].partition("hint:")[0].split())
    assert line.startswith("door ssh opened 3 times; the last attempt did not open it: ")
    assert "9000/tcp is missing" in line
    assert main(["explain", path, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["door"], answer["opened"], answer["conclusion"]["kind"]) == ("ssh", True, "last_missing")


def test_equal_rows_are_folded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "; ".join(f"{n * 0.1:.1f} {3000 + n}/tcp" for n in range(300)) + "; 31 7000/tcp; 32 8000/udp"
    path = str(write_pcap(tmp_path / "x", frames(text)))
    main(["explain", path])
    out = capsys.readouterr().out
    assert "          … 298 more like these\n" in out
    assert len(out.splitlines()) < 15
    text = "; ".join(f"{n * 0.5:.1f} {port}" for n in range(100) for port in ("7000/tcp", "8000/udp"))
    path = str(write_pcap(tmp_path / "x", frames(text)))
    main(["explain", path])
    shown = capsys.readouterr().out.splitlines()
    main(["explain", path, "--source", "192.0.2.7"])
    assert len(shown) < 70 < len(capsys.readouterr().out.splitlines())
    assert shown[1] == "          … 140 earlier lines"


def test_no_source_knocked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(write_pcap(tmp_path / "x", frames("0 5/tcp; 1 6/tcp from=192.0.2.8")))
    assert main(["explain", path]) == 1
    assert capsys.readouterr().out == "=> none of 2 sources sent packets to a door port\n"
    path = str(write_pcap(tmp_path / "x", []))
    assert main(["explain", path]) == 1
    assert capsys.readouterr().out == "=> no source sent packets to a door port\n"


def test_truncated_capture_is_explained(capture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capture.write_bytes(capture.read_bytes()[:-5])
    assert main(["explain", str(capture)]) == 1
    out, err = capsys.readouterr()
    assert "=> only two of three knocks arrived: 9000/tcp is missing" in out
    assert err.startswith(f"doorward: {capture}: the file ends at byte ")
    assert err.endswith(", inside a packet; the packets before it are explained\n")


def test_corrupt_capture_is_explained_up_to_the_fault(capture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capture.write_bytes(capture.read_bytes() + b"\xff" * 16)
    assert main(["explain", str(capture)]) == 1
    out, err = capsys.readouterr()
    assert "=> the third knock came 6.2 s after the first" in out
    assert "invalid packet size 4,294,967,295: at most 262,144 bytes; the packets before it are explained\n" in err


def test_capture_without_ip_packets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    usb = write_pcap(tmp_path / "x", [CapturedFrame(BEGAN_NS, 189, bytes(64), 64)] * 2)
    assert main(["explain", str(usb)]) == 2
    assert capsys.readouterr().err == (
        f"doorward: {usb}: link type 189 (USB); capture on a network interface, or with `-i any`\n"
    )
    arp = write_pcap(tmp_path / "x", [CapturedFrame(BEGAN_NS, 1, bytes(12) + b"\x08\x06" + bytes(28), 42)] * 2)
    assert main(["explain", str(arp)]) == 1
    assert "none of 2 frames contains a packet that can be explained; 2: no IP packet: protocol 0x0806 (ARP)" in (
        capsys.readouterr().err
    )


def test_a_capture_without_times(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    timeless = [frame._replace(at_ns=0) for frame in frames(LATE)]
    main(["explain", str(write_pcap(tmp_path / "x", timeless))])
    assert "all packets have the same time, so deadlines cannot be checked" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "name one thing to explain: a capture file, an address, or --live ADDRESS"),
        (["x.pcap", "--live", "192.0.2.7"], "name one thing to explain"),
        (["x.pcap", "--for", "3s"], "--for is for --live; add --live ADDRESS, or leave --for out"),
        (["--live", "home"], "--live: invalid address 'home'; write it as 192.0.2.7 or 2001:db8::7"),
        (["--live", "192.0.2.7", "--for", "3"], '--for: .*write the unit too: "3s"'),
        (["x.pcap"], "x.pcap: neither a file nor an address; name a capture file or an address"),
        (["{folder}"], "cannot be read .Is a directory.; name a capture file"),
        (["{folder}/doorward.toml"], "doorward.toml: not a capture file; create one with `tcpdump -w FILE`"),
        (["{capture}", "--source", "home"], "--source: invalid address 'home'"),
        (["{capture}", "--host", "home"], "--host: invalid address 'home'"),
        (["{capture}", "--door", "shs"], "--door: unknown door 'shs'; did you mean 'ssh'?"),
        (["{capture}", "--door", "xyz"], "--door: unknown door 'xyz'; see the configuration for its name"),
        (["{capture}", "-c", "none.toml"], "none.toml: no such file"),
        (["192.0.2.7"], "no ledger; it begins when `doorward run` first starts"),
    ],
)
def test_invalid_calls(
    words: list[str], says: str, capture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", *(word.format(folder=tmp_path, capture=capture) for word in words)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(f"doorward: .*{says}.*\n", err)


def test_stdin_is_read_to_end_after_ctrl_c(capture: Path) -> None:
    """Ctrl-C also reaches tcpdump, which then writes its remaining packets."""
    whole = write_pcap(capture, frames("; ".join(f"{n / 1000:.3f} 5/udp" for n in range(4000)) + "; 9 7000/tcp"))
    data = whole.read_bytes()
    assert len(data) > 2 * 65536  # more than a pipe holds: once half is written, the reader is at work
    command = [sys.executable, "-m", "doorward", "explain", "-"]
    with running(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=False) as process:
        assert process.stdin is not None
        process.stdin.write(data[: len(data) * 2 // 3])
        process.stdin.flush()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(data[len(data) * 2 // 3 :], timeout=60)
    assert err == b""
    assert process.returncode == 1
    assert b"SYN 7000/tcp" in out
    assert b"=> only one of three knocks arrived" in out


def test_standard_input_that_is_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    assert main(["explain", "-"]) == 2
    assert "pipe a capture into it: tcpdump -w - | doorward explain -" in capsys.readouterr().err
