"""docs/tutorial.md, typed: each line on its machine, in order, and each prints what the page says."""

from __future__ import annotations

import re
import shlex
import socket
from collections.abc import Iterator

import pytest

from doorward.lab.topology import Lab
from tests.support.consoles import Console
from tests.support.daemon import SILENCE_S
from tests.support.docs_session import DocsSession, docs_session
from tests.support.service_user import USER, status_of

pytestmark = pytest.mark.netns("nft", "nmap", "ssh", "ssh-keygen", "/usr/sbin/sshd", "unshare")


@pytest.fixture
def session(lab: Lab) -> Iterator[DocsSession]:
    with docs_session(lab) as session:
        yield session


@pytest.mark.console("docs/tutorial.md")
def test_the_tutorial(session: DocsSession, console: Console) -> None:
    assert [call.typed.split()[0] for call in console.left].count("doorward") >= 8
    for call in console:
        printed = session.compare(call)
        if found := re.search(r"doorward add (\S+) --name home", printed):
            session.link = shlex.split(found[1])[0]
    assert status_of(session.daemon.process.pid)["Uid"].split()[0] == str(USER)
    with pytest.raises(TimeoutError):
        session.lab.stranger.call(socket.create_connection, ("198.51.100.2", 22), SILENCE_S)
