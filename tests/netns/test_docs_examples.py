"""Configurations in the documentation are loaded into the kernel, and the README's quick start lets you in."""

from __future__ import annotations

import re
import shlex
import socket
import tomllib
from collections.abc import Iterator

import pytest

from doorward.config.toml import TABLES, parse
from doorward.daemon.ruleset_loader import compile_configuration, memory_bytes
from doorward.lab.topology import Lab
from tests.support.daemon import SILENCE_S
from tests.support.docs_session import DocsSession, docs_session
from tests.support.documents import PAGES, ROOT, Block, blocks, calls

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
def session(lab: Lab) -> Iterator[DocsSession]:
    with docs_session(lab) as session:
        yield session


def test_the_readmes_quick_start(session: DocsSession) -> None:
    """Pasted without a change but for the link that `init` prints; packages are installed elsewhere."""
    server, laptop = (list(calls(block)) for block in blocks(ROOT / "README.md", "sh"))
    session.program("sudo", "env")  # the prompts are root's here
    for call in server:
        if call.typed.startswith("sudo doorward"):
            printed = session.compare(call._replace(typed=call.typed.removeprefix("sudo ")), at="#")
            if found := re.search(r"doorward add (\S+) --name home", printed):
                session.link = shlex.split(found[1])[0]
    install, add, confirm = laptop
    assert install.typed == "pipx install ."
    session.compare(add)
    assert session.compare(confirm) == "confirmed: 1 door, mode guard\n"
    with pytest.raises(TimeoutError):
        session.lab.stranger.call(socket.create_connection, (str(session.lab.server.ipv4), 22), SILENCE_S)


def test_what_the_readme_does_not_type_is_run_elsewhere() -> None:
    """Packages come from `scripts/deb --test` and `tests/packaging/test_wheel.py`."""
    typed = [call.typed for block in blocks(ROOT / "README.md", "sh") for call in calls(block)]
    rest = [line for line in typed if not re.match(r"(ssh -t home )?(sudo )?doorward ", line)]
    assert rest == [
        "sudo scripts/deb",
        "sudo apt-get install --yes ./build/deb/*/doorward_*.deb ./build/deb/*/doorward-client_*.deb",
        "pipx install .",
    ]
