"""Configurations in the documentation are loaded into the kernel, and the README's first examples let you in."""

from __future__ import annotations

import os
import shutil
import tomllib
from collections.abc import Iterator

import pytest

from doorward.config.toml import TABLES, parse
from doorward.daemon.ruleset_loader import compile_configuration, memory_bytes
from doorward.lab.topology import Lab
from tests.support.consoles import Console
from tests.support.docs_session import DocsSession, docs_session
from tests.support.documents import PAGES, ROOT, Block, blocks
from tests.support.service_user import GROUP

pytestmark = pytest.mark.netns("nft", "ssh", "/usr/sbin/sshd", "unshare")

WHOLE = [
    block
    for page in PAGES
    for block in blocks(page, "toml")
    if tomllib.loads(block.text).keys() <= set(TABLES) and "doors" in tomllib.loads(block.text)
]


@pytest.mark.parametrize("block", WHOLE, ids=str)
def test_the_kernel_takes_it(lab: Lab, block: Block) -> None:
    ruleset = compile_configuration(parse(block.text, str(block)), memory_bytes()).full_text()
    lab.server.run(["nft", "-f", "-"], stdin=ruleset)
    assert lab.server.run(["nft", "list", "tables"]).stdout == "table inet doorward\n"


@pytest.fixture
def desk(lab: Lab) -> Iterator[DocsSession]:
    with docs_session(lab) as desk:
        yield desk


@pytest.mark.console("README.md", 1, 2)
def test_the_readmes_first_examples(desk: DocsSession, console: Console) -> None:
    """The sequence first; then `[signed]` replaces it and the server's key is made, as the sentence between says."""
    config = next(blocks(ROOT / "README.md", "toml")).text
    desk.configure(config)
    run, knock, add, ssh = console
    desk.compare(run)
    desk.compare(knock)
    assert desk.daemon.event("opened", address=str(desk.lab.client.ipv4))["by"] == "knock"
    desk.daemon.run("close", "ssh", desk.lab.client.ipv4)
    desk.configure("".join(line for line in config.splitlines(True) if not line.startswith("knock")) + "[signed]\n")
    desk.swaps["x25519:…"] = desk.daemon.run("key", "server").stdout.strip()
    keys = desk.daemon.config.with_name("authorized_keys")
    shutil.copy(desk.home("#") / ".ssh/authorized_keys", keys)
    os.chown(keys, 0, GROUP)
    desk.daemon.reload(desk.daemon.config.read_text())
    desk.daemon.message("accepting signed knocks")
    desk.compare(add)
    desk.compare(ssh)
    assert desk.daemon.event("opened", address=str(desk.lab.client.ipv4))["by"] == "key ed25519 number 0"
