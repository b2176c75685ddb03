"""Configurations in the documentation are loaded into the kernel, and the README's first example lets its sender in."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from doorward.config.toml import TABLES, parse
from doorward.daemon.loading import compile_configuration, memory_bytes
from doorward.lab import Lab
from tests.support.daemon import DOORWARD, running_daemon
from tests.support.documents import PAGES, ROOT, Block, blocks, calls

pytestmark = pytest.mark.netns("nft")

WHOLE = [
    block
    for page in PAGES
    for block in blocks(page, "toml")
    if tomllib.loads(block.text).keys() <= set(TABLES) and "doors" in tomllib.loads(block.text)
]


@pytest.mark.parametrize("block", WHOLE, ids=str)
def test_the_kernel_takes_it(lab: Lab, block: Block) -> None:
    ruleset = compile_configuration(parse(block.text, str(block)), memory_bytes()).whole()
    lab.server.run(["nft", "-f", "-"], stdin=ruleset)
    assert lab.server.run(["nft", "list", "tables"]).stdout == "table inet doorward\n"


def test_the_readmes_first_example(lab: Lab, tmp_path: Path) -> None:
    """The host has a service on 22 and the example's public ports; its words knock, and the connection follows."""
    readme = ROOT / "README.md"
    config, console = next(blocks(readme, "toml")).text, next(blocks(readme, "console"))
    run, knock = (call.typed for call in calls(console))
    assert run == "doorward run &"
    words = re.fullmatch(r"doorward (knock server\.example .*) && ssh server\.example", knock)
    assert words
    lab.server.start_greeter(22)
    with running_daemon(lab.server, tmp_path, config) as daemon:
        there = words[1].replace("server.example", str(lab.server.ipv4)).split()
        lab.client.run([*DOORWARD, *there, "--wait", "22"])
        assert daemon.event("opened", address=str(lab.client.ipv4))["door"] == "ssh"
