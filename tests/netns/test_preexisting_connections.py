"""Established connections continue when the gate is first loaded, although conntrack never saw their start."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

import pytest

from doorward.lab.namespace import NamespaceHost
from doorward.lab.topology import Lab
from tests.support.daemon import FIRST_SYN_S, PATIENCE_S, Visitor, running_daemon

pytestmark = pytest.mark.netns("conntrack")

CONFIG = """
[gate]
mode = "{mode}"
[doors.ssh]
knock = ["7001/tcp", "7002/tcp"]
opens = ["22/tcp"]
"""


class Session(NamedTuple):
    """Two ends of an established connection: the gate's side, and the other host's."""

    local: socket.socket
    remote: socket.socket


def established(
    stack: ExitStack, listening: NamespaceHost, bind: str, connecting: NamespaceHost, to: str, port: int
) -> Session:
    family = socket.AF_INET6 if ":" in bind else socket.AF_INET
    dual = bind == "::"
    with listening.call(socket.create_server, (bind, port), family=family, dualstack_ipv6=dual) as listener:
        connected = stack.enter_context(connecting.call(socket.create_connection, (to, port), FIRST_SYN_S))
        accepted = stack.enter_context(listener.accept()[0])
    for end in (accepted, connected):
        end.settimeout(PATIENCE_S)
    return Session(accepted, connected)


def heard(speaker: socket.socket, listener: socket.socket) -> bool:
    """Say something; it must arrive, and its answer too."""
    speaker.sendall(b"hello")
    if listener.recv(100) != b"hello":
        return False
    listener.sendall(b"hello yourself")
    return speaker.recv(100) == b"hello yourself"


@pytest.mark.parametrize("mode", ["guard", "stealth"])
@pytest.mark.parametrize(
    ("bind", "version"),
    [("198.51.100.2", 4), ("2001:db8:2::2", 6), ("::", 4), ("::", 6)],
    ids=["ipv4", "ipv6", "mapped-ipv4", "dual-ipv6"],
)
def test_an_idle_session_whose_client_speaks_first_goes_on(
    direct_lab: Lab, tmp_path: Path, mode: str, bind: str, version: int
) -> None:
    client, server = direct_lab.client, direct_lab.server
    source, to = (client.ipv4, server.ipv4) if version == 4 else (client.ipv6, server.ipv6)
    with ExitStack() as stack:
        session = established(stack, server, bind, client, str(to), 22)
        assert server.run(["conntrack", "-L", "-p", "tcp"]).stdout == ""
        family = socket.AF_INET6 if ":" in bind else socket.AF_INET
        again = server.call(socket.create_server, (bind, 22), family=family, dualstack_ipv6=bind == "::")
        stack.enter_context(again)
        daemon = stack.enter_context(running_daemon(server, tmp_path, CONFIG.format(mode=mode)))
        assert heard(session.remote, session.local)
        assert not Visitor(client, ip_address(source), to).gets_in()  # a new one is hidden from
        daemon.reload(CONFIG.format(mode=mode).replace("7002", "7003"))
        assert heard(session.remote, session.local)
        assert heard(session.local, session.remote)


@pytest.mark.parametrize("first", ["reload", "speak"])
def test_it_goes_on_after_a_restart_of_the_daemon(direct_lab: Lab, tmp_path: Path, first: str) -> None:
    client, server = direct_lab.client, direct_lab.server
    with ExitStack() as stack:
        session = established(stack, server, "::", client, str(server.ipv4), 22)
        with running_daemon(server, tmp_path, CONFIG.format(mode="guard")) as daemon:
            daemon.end()
            if first == "speak":
                assert heard(session.remote, session.local)
            daemon.start()
            if first == "reload":
                daemon.reload(CONFIG.format(mode="stealth"))
            assert heard(session.remote, session.local)


@pytest.mark.parametrize("version", [4, 6], ids=["ipv4", "ipv6"])
def test_an_outgoing_session_whose_remote_side_speaks_first_goes_on(
    direct_lab: Lab, tmp_path: Path, version: int
) -> None:
    client, server = direct_lab.client, direct_lab.server
    to = str(client.ipv4 if version == 4 else client.ipv6)
    with ExitStack() as stack:
        ends = established(stack, client, to, server, to, 9999)
        stack.enter_context(running_daemon(server, tmp_path, CONFIG.format(mode="stealth")))
        assert heard(ends.local, ends.remote)  # `local` is what was accepted: here the other host's end


@pytest.mark.parametrize("mode", ["guard", "stealth"])
def test_a_port_that_a_reload_hides_keeps_its_sessions(direct_lab: Lab, tmp_path: Path, mode: str) -> None:
    client, server = direct_lab.client, direct_lab.server
    before = CONFIG.format(mode="guard").replace("22/tcp", "23/tcp")
    with ExitStack() as stack:
        early = established(stack, server, "::", client, str(server.ipv4), 22)
        daemon = stack.enter_context(running_daemon(server, tmp_path, before))
        late = established(stack, server, "::", client, str(server.ipv4), 22)
        daemon.reload(CONFIG.format(mode=mode))
        stack.enter_context(server.call(socket.create_server, ("", 22)))
        for session in (early, late):
            assert heard(session.remote, session.local)
        assert not Visitor(client, client.ipv4, server.ipv4).gets_in()
