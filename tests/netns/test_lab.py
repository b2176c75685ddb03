"""The lab itself: everyone reaches everyone, and afterwards nothing is left of it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

from doorward.errors import HostError
from doorward.lab.namespace import NamespaceHost
from doorward.lab.topology import Lab
from tests.support.processes import running

pytestmark = pytest.mark.netns

ECHO = {  # request with its checksum (the kernel makes the one of ICMPv6), and the reply's first byte
    4: (socket.AF_INET, socket.IPPROTO_ICMP, b"\x08\0\xf7\xff\0\0\0\0", 0),
    6: (socket.AF_INET6, socket.IPPROTO_ICMPV6, b"\x80\0\0\0\0\0\0\0", 129),
}


def ping(address: IPv4Address | IPv6Address) -> bool:
    family, protocol, request, reply = ECHO[address.version]
    with socket.socket(family, socket.SOCK_RAW, protocol) as raw:
        raw.settimeout(5)
        raw.sendto(request, (str(address), 0))
        while True:
            answer, sender = raw.recvfrom(2048)
            header = 20 if address.version == 4 else 0
            if sender[0] == str(address) and answer[header] == reply:
                return True


def greeting(
    host: NamespaceHost, to: NamespaceHost, *, version: int = 4, source: str | None = None, port: int = 22
) -> str:
    address = str(to.ipv4 if version == 4 else to.ipv6)
    bound = (source, 0) if source else None
    with host.call(socket.create_connection, (address, port), 5, bound) as connection:
        return connection.makefile().readline()


def namespaces(prefix: str) -> list[str]:
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if line.startswith(prefix)]


def links() -> set[str]:
    return {name for _, name in socket.if_nameindex()}


def prefix_of(lab: Lab) -> str:
    return lab.server.namespace.removesuffix("server")


@pytest.mark.parametrize("version", [4, 6])
def test_everyone_reaches_the_server(lab: Lab, version: int) -> None:
    for host in (lab.client, lab.stranger, lab.router):
        assert host.call(ping, lab.server.ipv4 if version == 4 else lab.server.ipv6)


def test_a_direct_lab_is_one_wire(direct_lab: Lab) -> None:
    for address in (direct_lab.server.ipv4, direct_lab.server.ipv6):
        assert direct_lab.client.call(ping, address)
    assert not direct_lab.router.path.exists()
    assert direct_lab.server.mac in direct_lab.server.ip("link", "show", "eth0")


def test_the_greeter_greets_on_both_families_and_echoes(lab: Lab) -> None:
    lab.server.start_greeter(22)
    assert greeting(lab.client, lab.server) == "welcome, 192.0.2.2\n"
    assert greeting(lab.stranger, lab.server, version=6) == "welcome, 2001:db8:3::2\n"
    with lab.client.call(socket.create_connection, (str(lab.server.ipv4), 22), 5) as connection:
        lines = connection.makefile("rw")
        lines.readline()
        lines.write("one\ntwo\n")
        lines.flush()
        assert [lines.readline(), lines.readline()] == ["one\n", "two\n"]


def test_the_client_speaks_from_any_address(lab: Lab) -> None:
    lab.server.start_greeter(22)
    near, far = [f"192.0.2.{i}" for i in range(10, 210)], [f"10.1.{i}.1" for i in range(200)]
    sixes = [f"2001:db8:f:{i:x}::1" for i in range(200)]
    lab.client.add_addresses([*near, *far, *sixes])
    for source in (near[-1], far[-1], sixes[-1]):
        version = 6 if ":" in source else 4
        assert greeting(lab.client, lab.server, version=version, source=source) == f"welcome, {source}\n"


def test_run_gives_output_and_a_failure_says_what_was_written(lab: Lab) -> None:
    assert str(lab.server.ipv4) in lab.server.run(["ip", "address"]).stdout
    assert lab.server.run(["cat"], stdin="words").stdout == "words"
    assert lab.server.run(["sh", "-c", "echo $WORD"], env={"WORD": "said"}).stdout == "said\n"
    assert lab.server.run(["false"], check=False).returncode == 1
    with pytest.raises(subprocess.CalledProcessError) as caught:
        lab.server.run(["sh", "-c", "echo why >&2; exit 3"])
    assert "why" in caught.value.__notes__[0]


def test_nothing_is_left(capfd: pytest.CaptureFixture[str]) -> None:
    before = links()
    with Lab() as lab:
        greeter = lab.server.start_greeter(22)
        deaf = lab.client.popen(["sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 60; done"])
        assert deaf.stdout is not None
        assert deaf.stdout.readline() == "deaf\n"
        orphan = lab.client.run(["sh", "-c", "sleep 60 >/dev/null 2>&1 & echo $!"]).stdout
        assert len(namespaces(prefix_of(lab))) == 4
    assert namespaces(prefix_of(lab)) == []
    assert links() == before
    assert (greeter.returncode, deaf.returncode) == (-signal.SIGTERM, -signal.SIGKILL)
    assert not Path("/proc", orphan.strip(), "exe").exists()
    lab.close()  # a second time is not an error


def test_an_exception_inside_passes_and_nothing_is_left() -> None:
    before, lab = links(), Lab()
    with pytest.raises(subprocess.CalledProcessError), lab:
        lab.server.run(["false"])
    assert (namespaces(prefix_of(lab)), links()) == ([], before)


@pytest.mark.parametrize("step", ["_link_line", "_default_lines", "_wait_for_links"])
def test_half_a_lab_goes_too(monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    def broken(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"doorward.lab.topology.{step}", broken)
    before, lab = links(), Lab()
    with pytest.raises(KeyboardInterrupt):
        lab.__enter__()
    assert (namespaces(prefix_of(lab)), links()) == ([], before)


WAITING = """
from doorward.lab.topology import Lab
with Lab() as lab:
    greeter = lab.server.start_greeter(22)
    print(greeter.pid, lab.server.namespace, flush=True)
    greeter.wait()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_lab_in_order(number: signal.Signals) -> None:
    before = links()
    with running([sys.executable, "-c", WAITING], stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        greeter, namespace = process.stdout.readline().split()
        process.send_signal(number)
        assert process.wait(20) != 0
    assert (namespaces(namespace.removesuffix("server")), links()) == ([], before)
    assert not Path("/proc", greeter, "exe").exists()


def test_a_signal_while_it_is_being_built_waits_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    lab, built = Lab(), []

    def interrupted(hosts: Sequence[NamespaceHost]) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        built.extend(namespaces(prefix_of(lab)))

    monkeypatch.setattr("doorward.lab.topology._wait_for_links", interrupted)
    with pytest.raises(KeyboardInterrupt):
        lab.__enter__()
    assert len(built) == 4
    assert namespaces(prefix_of(lab)) == []


def test_ctrl_c_at_a_terminal_ends_the_lab_in_order() -> None:
    """The whole foreground group gets the signal, again and again: as when somebody is impatient."""
    before = links()
    with running([sys.executable, "-c", WAITING], stderr=subprocess.DEVNULL, process_group=0) as process:
        assert process.stdout is not None
        namespace = process.stdout.readline().split()[1]
        for _ in range(3):
            os.killpg(process.pid, signal.SIGINT)
        assert process.wait(20) != 0
    assert (namespaces(namespace.removesuffix("server")), links()) == ([], before)


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: 1000)
        with pytest.raises(HostError, match="need root"):
            Lab().__enter__()
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))
        with pytest.raises(HostError, match="install the package iproute2"):
            Lab().__enter__()
    fake = tmp_path / "ip"
    fake.write_text("#!/bin/sh\necho 'mount --make-shared /run/netns failed: Operation not permitted' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostError, match=r"not permitted here; give .* CAP_SYS_ADMIN"):
        Lab().__enter__()
