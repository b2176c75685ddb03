"""docs/fleet-setup.md, typed: users and roles in a real etcd with certificates, and the page's gate."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from doorward.lab.topology import Lab
from tests.support.authority import Authority
from tests.support.consoles import Console
from tests.support.docs_session import DocsSession, docs_session
from tests.support.documents import ROOT, Call, blocks
from tests.support.etcd import Node, cluster
from tests.support.service_user import GROUP

pytestmark = pytest.mark.netns("nft", "etcd", "etcdctl", "ssh", "/usr/sbin/sshd", "unshare")

NODE = "192.0.2.11"  # the page's first node; here it is the only one
PASSWORDS = {"root": "a root's own", "edge-1": "a gate's own"}


@pytest.fixture
def session(lab: Lab) -> Iterator[DocsSession]:
    with ExitStack() as stack:
        session = stack.enter_context(docs_session(lab))
        lab.client.add_addresses([NODE])
        home = session.home("#")
        authority = Authority(home, "fleet-ca", NODE)
        certificate, key = authority.issue("node")
        for name in ("admin", "gate"):
            authority.issue(name, has_common_name=False)
        words = {"cert-file": certificate, "key-file": key, "trusted-ca-file": authority.ca, "client-cert-auth": "true"}
        more = [f"--{name}={value}" for name, value in words.items()]
        urls = f"https://{NODE}:2379", "http://127.0.0.1:2380"
        stack.enter_context(cluster([Node("etcd1", session.folder / "etcd", *urls, lab.client.popen, *more)]))
        yield session


@pytest.mark.console("docs/fleet-setup.md", "Users and roles")
def test_users_and_roles_and_a_gate(session: DocsSession, console: Console) -> None:
    for call in console:
        if "user add" in call.typed:
            user = call.typed.split()[3]
            assert f"User {user} created" in session.answer(call, PASSWORDS[user], PASSWORDS[user])
        else:
            session.compare(call)
    (config,) = (block.text for block in blocks(ROOT / "docs/fleet-setup.md", "toml"))
    session.configure(config)
    folder = session.daemon.config.parent
    for name in ("fleet-ca.pem", "gate.pem", "gate.key"):
        shutil.copy(session.home("#") / name, folder)
    (folder / "fleet.password").write_text(PASSWORDS["edge-1"] + "\n")
    session.daemon.run("key", "server")
    shutil.copy(session.home("#") / ".ssh/authorized_keys", folder)
    for path in folder.iterdir():
        os.chown(path, 0, GROUP)
        path.chmod(0o640)
    checked = session.type(Call("#", "doorward check", ""))
    assert ": good: 1 door, " in checked, checked
    session.start()
    session.daemon.message("connected to the fleet")
    assert "edge-1" in session.type(Call("#", "doorward status --fleet", ""))
