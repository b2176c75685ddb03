"""The survey of a host: SSH ports, the address for clients, the operator's keys."""

from __future__ import annotations

import os
import pwd
import socket
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path

import pytest

from doorward.doctor.host import LocalAddress, Network, Route
from doorward.init.survey import HostSurvey, Service, host_name, key_files, survey_host
from doorward.kernel.sock_diag import Connection
from doorward.model import Port, Protocol


def tcp(number: int) -> Port:
    return Port(Protocol.TCP, number)


def session(port: int = 22, destination: str = "192.0.2.7") -> Connection:
    return Connection(ip_address("198.51.100.9"), 50_000, ip_address(destination), port)


def host(*services: Service, session: Connection | None = None, network: Network | None = None) -> HostSurvey:
    return HostSurvey(services, frozenset(), range(32_768, 61_000), session, network or Network((), ()))


@pytest.mark.parametrize(
    ("services", "session", "ports"),
    [
        ([], None, []),
        ([Service(tcp(80), "nginx")], None, []),
        ([Service(tcp(22), "")], None, [22]),  # unknown program: systemd, or not readable
        ([Service(tcp(22), "sshd"), Service(tcp(2222), "sshd")], None, [22, 2222]),
        ([Service(tcp(22), "sshd"), Service(tcp(2222), "sshd")], session(2222), [2222, 22]),
        ([Service(tcp(2022), "dropbear"), Service(tcp(22), "honeypot")], None, [2022]),
        ([Service(tcp(2022), "systemd")], session(2022), [2022]),  # a socket of systemd's, but the session is here
        ([Service(Port(Protocol.UDP, 22), "sshd")], None, []),
        ([Service(tcp(22), "sshd")], session(60_022), [22]),  # the port that a router forwards from
    ],
)
def test_ssh_ports(services: list[Service], session: Connection | None, ports: list[int]) -> None:
    assert [port.number for port in host(*services, session=session).ssh_ports()] == ports


LAN = LocalAddress("eth1", ip_interface("10.0.0.7/24"))
OUTER = LocalAddress("eth0", ip_interface("9.9.9.7/24"))
OUTER_6 = LocalAddress("eth0", ip_interface("2620:fe::7/64"))
LOOP, LINK = LocalAddress("lo", ip_interface("127.0.0.1/8")), LocalAddress("eth0", ip_interface("fe80::7/64"))
WAY = Route(ip_network("0.0.0.0/0"), "eth1")


@pytest.mark.parametrize(
    ("locals_", "routes", "session", "address"),
    [
        ([LOOP, LINK], [], None, None),
        ([LOOP, LAN], [], None, "10.0.0.7"),
        ([LAN, OUTER_6, OUTER], [WAY], None, "9.9.9.7"),  # one that the world reaches
        (
            [LocalAddress("eth2", ip_interface("10.1.0.7/24")), LAN],
            [WAY],
            None,
            "10.0.0.7",
        ),  # else where the world lies
        ([LAN, OUTER], [], session(22, "10.0.0.7"), "10.0.0.7"),  # the operator came by it
        ([LAN, OUTER], [], session(22, "203.0.113.1"), "9.9.9.7"),  # translated: not this host's
    ],
)
def test_address_that_clients_use(
    locals_: list[LocalAddress], routes: list[Route], session: Connection | None, address: str | None
) -> None:
    found = host(session=session, network=Network(tuple(locals_), tuple(routes))).address()
    assert found == (None if address is None else ip_address(address))


def test_listening_services_have_their_program() -> None:
    with socket.create_server(("0.0.0.0", 0)) as outer, socket.create_server(("127.0.0.1", 0)) as inner:
        found = survey_host()
        ports = {service.port.number: service.program for service in found.services}
        outer_port, inner_port = outer.getsockname()[1], inner.getsockname()[1]
        assert ports[outer_port] == Path("/proc/self/comm").read_text().strip()
        assert inner_port not in ports
        assert {tcp(outer_port), tcp(inner_port)} <= found.taken
        first, last = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
        assert (found.ephemeral[0], found.ephemeral[-1]) == (first, last)


def test_client_socket_is_not_a_service() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.bind(("0.0.0.0", 0))
        port = Port(Protocol.UDP, client.getsockname()[1])
        found = survey_host()
        assert port in found.taken
        assert port not in [service.port for service in found.services]


def test_key_files_of_the_operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "self").mkdir()
    login = tmp_path / "self/loginuid"
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.delenv("SUDO_UID", raising=False)
    mine = Path("/home/me/.ssh/authorized_keys")
    roots = Path(pwd.getpwuid(0).pw_dir, ".ssh/authorized_keys")
    assert list(key_files(tmp_path)) == [mine]
    for text, expected in (("4294967295", [mine]), ("0\n", [roots, mine]), ("4000000001", [mine]), ("x", [mine])):
        login.write_text(text)
        assert list(key_files(tmp_path)) == expected
    monkeypatch.setenv("SUDO_UID", "0")
    monkeypatch.setenv("HOME", pwd.getpwuid(0).pw_dir)
    assert list(key_files(tmp_path)) == [roots]  # each file once


def test_host_name_is_short() -> None:
    assert host_name() == (os.uname().nodename.partition(".")[0] or "server")
