"""The example of `doorward lab`, typed on this machine: it makes its own hosts, and takes them away again."""

from __future__ import annotations

import os
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from doorward.lab.namespace import NAMESPACES
from tests.support.consoles import Console
from tests.support.daemon import SLOWNESS
from tests.support.examples import assert_printed, search_path
from tests.support.processes import running

pytestmark = pytest.mark.netns("nft", "nmap")

LONGEST_S = 100 * SLOWNESS  # a quarter of a minute goes by with scans, and with doors that close in their time
STORY = (  # what follows the example
    "All 65535 scanned ports on 198.51.100.2 are in ignored states.",
    "the service replies: welcome, 192.0.2.2",
    "opened   192.0.2.2        ssh: 22/tcp, by knock; closed after 5s, by time",
    "opened   192.0.2.2        ssh: 22/tcp, by key laptop",
)


def type_here(path: str, line: str) -> str:
    """Do what a line says; gives what is printed."""
    words, environment = ["sh", "-ec", line], {**os.environ, "PATH": path}
    with running(words, env=environment, stderr=subprocess.PIPE) as process:
        out, err = map(str, process.communicate(timeout=LONGEST_S))
    assert (process.returncode, err) == (0, "")
    return out


@pytest.mark.console("docs/reference/commands.md", "doorward lab")
def test_lab(console: Console, tmp_path: Path) -> None:
    show, keep, remove = console
    path = search_path(tmp_path)
    with ThreadPoolExecutor(2) as both:  # each has hosts of its own
        showing, keeping = (both.submit(type_here, path, call.typed) for call in (show, keep))
    kept = keeping.result()
    found = re.search(r"lab --remove (\S+)", kept)
    assert found
    try:
        assert_printed(show.printed, shown := showing.result())
        assert_printed(keep.printed, kept)
        assert [part for part in STORY if part not in shown] == []
        (enter,) = re.findall(r"^  server +(ip netns exec .* bash)$", kept, re.MULTILINE)
        assert "2 doors, mode stealth" in type_here(path, f"{enter} -c 'doorward status'")
    finally:
        type_here(path, remove.typed.replace("doorward-4711-0a1b2c", found[1]))
    assert [each.name for each in NAMESPACES.iterdir() if each.name.startswith(found[1])] == []
