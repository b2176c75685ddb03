"""What the test suite does where it is interrupted: it starts programs that Ctrl-C ends, and removes its namespaces."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from doorward.lab.namespace import NAMESPACES, ip
from tests.support.documents import ROOT

pytestmark = pytest.mark.netns

# A lab that is kept is like one whose removal was interrupted.
SUITE = """
import signal, subprocess
from pathlib import Path
import pytest
from doorward.lab.topology import Lab

def test_programs_hear_ctrl_c():
    for number in (signal.SIGINT, signal.SIGHUP):
        with subprocess.Popen(["sleep", "60"]) as process:
            process.send_signal(number)
        assert process.returncode == -number

@pytest.mark.timeout(60)
def test_a_timeout():
    lab = Lab(direct=True).__enter__()
    lab.keep()
    lab.server.popen(["sleep", "60"])
    Path("made").write_text(lab.name)
    signal.raise_signal(signal.SIGALRM)  # as the timer of pytest-timeout does
"""


def test_interrupted_tests_leave_no_namespace(tmp_path: Path) -> None:
    """Signals are ignored, as below `nohup` and behind `&` in a script."""
    (tmp_path / "test_suite.py").write_text(SUITE)
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider", "-n", "1"]
    done = subprocess.run(
        ["env", "--ignore-signal=INT", "--ignore-signal=HUP", f"PYTHONPATH={ROOT}", *command, "test_suite.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "1 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    made = (tmp_path / "made").read_text()
    left = list(NAMESPACES.glob(f"{made}-*"))
    for path in left:
        ip("netns", "delete", path.name)
    assert left == []
