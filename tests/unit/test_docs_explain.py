"""docs/explain.md is true: its example is what the command prints; reference/diagnoses.md names every diagnosis."""

from __future__ import annotations

import ast
import re
import time
from pathlib import Path

import pytest

from doorward.cli.main import main
from doorward.packets.pcap import CapturedFrame
from tests.support.captures import BEGAN_NS, script
from tests.support.tcpdump import write_pcap

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/explain.md").read_text()


def block(language: str) -> str:
    """Return the first block of a language."""
    found = re.search(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)
    assert found
    return found[1]


def test_the_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    config = tmp_path / "doorward.toml"
    config.write_text(block("toml"))
    sent = script("0 7000/tcp; 0.01 8000/udp; 6.2 9000/tcp; 6.48 22/tcp sport=5; 7.49 22/tcp sport=5")
    frames = [CapturedFrame(BEGAN_NS + round(each.at_s * 1e9), 101, each.raw, len(each.raw)) for each in sent]
    capture = write_pcap(tmp_path / "knock.pcap", frames)
    assert main(["explain", str(capture), "-c", str(config)]) == 1
    commands, expected = block("console").split("\n", 2)[:2], block("console").split("\n", 2)[2]
    assert commands == ["# tcpdump -i any -w knock.pcap 'host 192.0.2.7'", "# doorward explain knock.pcap"]
    assert capsys.readouterr().out == expected
    monkeypatch.undo()
    time.tzset()


def test_every_diagnosis_is_documented() -> None:
    kinds = set()
    for path in (ROOT / "src/doorward/explain").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Cause":
                texts = [part.value for part in ast.walk(node.args[0]) if isinstance(part, ast.Constant)]
                assert texts, f"{path.name}:{node.lineno}: the word is not a literal"
                kinds |= {text for text in texts if isinstance(text, str)}
    table = (ROOT / "docs/reference/diagnoses.md").read_text()
    named = {word for row in table.splitlines() if row.startswith("| `") for word in re.findall(r"`(\w+)`", row[:110])}
    assert kinds <= named
    assert named - kinds <= {"within", "interfaces", "target", "flags"}  # settings that the answers speak of
    assert len(kinds) > 60
