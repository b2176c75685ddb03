"""`doorward explain` over tcpdump captures of real knocks, each failing in its own way, with a real daemon."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from doorward.cli.main import main
from doorward.lab.topology import Lab
from doorward.packets.pcap import CapturedFrame
from tests.netns.test_knockd_links import Tunnel, tunnel
from tests.support import failing_knocks
from tests.support.daemon import RunningDaemon, Visitors, running_daemon, standing_lab
from tests.support.failing_knocks import CASES, DOORS, OTHER_FIREWALL, PLACES, Case, Played, Scene
from tests.support.frames import FrameSender
from tests.support.tcpdump import MARKER, Tcpdump, concerning, tcpdump, write_pcap, write_pcapng

pytestmark = pytest.mark.netns("knock", "tcpdump", "nft")

# The same traffic, captured with different link types: Ethernet, and both kinds of `-i any`, one in nanoseconds.
WAYS = {
    "ethernet": ("-i", "eth0"),
    "cooked2": ("-i", "any", "--time-stamp-precision=nano"),
    "cooked": ("-i", "any", "-y", "LINUX_SLL"),
}
HOSTS = ("--host", "198.51.100.2", "--host", "2001:db8:2::2")


class Stage(NamedTuple):
    """All cases, played: the sources of each, the captures, and the doors that the daemon opened to each source."""

    played: dict[str, Played]
    captured: dict[str, list[CapturedFrame]]
    opened: set[tuple[str, str]]
    config: Path
    whole: Path


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("explain")
    with ExitStack() as stack:
        lab = stack.enter_context(standing_lab(direct=True))
        prepare(lab)
        tun = stack.enter_context(tunnel(lab.server, "tun0", "10.60.0.1/24"))
        dumps = {name: stack.enter_context(tcpdump(lab.server, *words)) for name, words in WAYS.items()}
        dumps["tunnel"] = stack.enter_context(tcpdump(lab.server, "-i", "tun0"))
        dumps["client"] = stack.enter_context(tcpdump(lab.client, "-i", "eth0"))
        dumps["short"] = stack.enter_context(tcpdump(lab.server, "-i", "eth0", "-s", "40"))
        visitors = Visitors(lab)
        played = {"not_hidden": before_the_daemon(visitors)}
        daemon = stack.enter_context(running_daemon(lab.server, folder, DOORS))
        played |= play(lab, daemon, visitors, tun, dumps)
        opened = {
            (event["door"], event["address"]) for event in daemon.log("--last", 1000) if event["event"] == "opened"
        }
        for dump in dumps.values():
            dump.stop()
        whole = folder / "whole.pcap"
        whole.write_bytes(dumps["cooked2"].raw)
        captured = {name: dump.frames for name, dump in dumps.items()}
        yield Stage(played, captured, opened, daemon.config, whole)


def prepare(lab: Lab) -> None:
    for port in (22, 23, 24, 80, 443):
        lab.server.start_greeter(port)
    lab.server.run(["nft", "-f", "-"], stdin=OTHER_FIREWALL)
    lab.server.call(Path("/proc/sys/net/ipv4/ip_forward").write_text, "1")
    lab.server.ip(batch=[f"route add unreachable {failing_knocks.UNREACHABLE}"])
    there = (failing_knocks.ELSEWHERE, failing_knocks.TARGET, failing_knocks.UNREACHABLE)
    lab.client.ip(batch=[f"route add {address} via {lab.server.ipv4}" for address in there])


def before_the_daemon(visitors: Visitors) -> Played:
    """Connect before the gate is loaded: the port answers."""
    visitor = visitors.fresh(4)
    visitor.connect().close()
    return Played(visitor.source)


def play(
    lab: Lab, daemon: RunningDaemon, visitors: Visitors, tun: Tunnel, dumps: dict[str, Tcpdump]
) -> dict[str, Played]:
    played = {}
    frames = FrameSender(lab.client, lab.server)
    scene = Scene(lab, daemon, visitors, frames, tun.send)
    for case in (*CASES, *PLACES):
        visitor = visitors.fresh(case.version)
        played[case.kind] = case.act(scene, visitor) or Played(visitor.source)
    failing_knocks.mark(scene, 1999)
    for name, dump in dumps.items():
        if name != "tunnel":
            dump.await_marker(1999)
    tun.send("10.60.0.8", "10.60.0.1", [f"{MARKER}/udp"])
    dumps["tunnel"].await_marker(40_000)
    frames.close()
    return played


def explain(stage: Stage, capsys: pytest.CaptureFixture[str], path: Path, *words: object) -> dict[str, Any]:
    """Run the command, and return its only object."""
    status = main(["explain", str(path), "-c", str(stage.config), "--json", *map(str, words)])
    (line,) = capsys.readouterr().out.splitlines()
    answer: dict[str, Any] = json.loads(line)
    assert status == (0 if answer["opened"] else 1)
    return answer


def of_case(stage: Stage, way: str, kind: str) -> list[CapturedFrame]:
    played = stage.played[kind]
    return concerning(stage.captured[way], [address.packed for address in (played.source, *played.others)])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.kind)
@pytest.mark.parametrize("way", WAYS)
def test_diagnosis(stage: Stage, capsys: pytest.CaptureFixture[str], tmp_path: Path, way: str, case: Case) -> None:
    path = write_pcap(tmp_path / "knock.pcap", of_case(stage, way, case.kind), nanoseconds=way == "cooked2")
    source = stage.played[case.kind].source
    answer = explain(stage, capsys, path, "--source", source, *HOSTS, *case.words)
    assert answer["conclusion"]["kind"] == case.kind, answer["conclusion"]
    assert case.says in answer["conclusion"]["what"]
    assert any(address == str(source) for _, address in stage.opened) == case.opened
    if not case.words:
        assert answer["opened"] == case.opened


def test_more_than_forty_failures_are_covered() -> None:
    kinds = {case.kind for case in (*CASES, *PLACES)} - {"connected", "ran"}
    assert len(kinds) == len(CASES) + len(PLACES) - 2 > 40


def test_all_cases_in_one_capture(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    """In the unfiltered capture, sources that knocked at the same time do not affect each other's diagnosis."""
    assert main(["explain", str(stage.whole), "-c", str(stage.config), "--json", *HOSTS]) == 0
    answers = {(answer := json.loads(line))["source"]: answer for line in capsys.readouterr().out.splitlines()}
    for case in CASES:
        if case.kind not in ("no_sequence", "nothing", "unknown_sequence"):  # no packet to a door's port
            answer = answers[str(stage.played[case.kind].source)]
            assert (answer["conclusion"]["kind"], answer["opened"]) == (case.kind, case.opened)


def test_server_address_is_where_most_knocks_go(
    stage: Stage, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    frames = [frame for kind in ("elsewhere", "late", "alone") for frame in of_case(stage, "ethernet", kind)]
    path = write_pcap(tmp_path / "knock.pcap", frames)
    answer = explain(stage, capsys, path, "--source", stage.played["elsewhere"].source)
    assert answer["conclusion"]["kind"] == "elsewhere"
    answer = explain(stage, capsys, path, "--source", stage.played["elsewhere"].source, "--host", "192.0.2.9")
    assert answer["conclusion"]["kind"] == "no_connection"


def test_port_that_answers_without_a_gate(stage: Stage, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = write_pcap(tmp_path / "knock.pcap", of_case(stage, "ethernet", "not_hidden"))
    answer = explain(stage, capsys, path, *HOSTS)
    assert answer["conclusion"]["kind"] == "not_hidden"
    assert "no knock, yet 22/tcp answered" in answer["conclusion"]["what"]


def test_capture_of_one_direction(stage: Stage, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    source = stage.played["connected"].source.packed
    frames = [frame for frame in of_case(stage, "ethernet", "connected") if frame.data[26:30] == source]
    answer = explain(stage, capsys, write_pcap(tmp_path / "knock.pcap", frames), *HOSTS)
    assert (answer["conclusion"]["kind"], answer["opened"]) == ("connected_one_way", True)


def test_truncated_capture(stage: Stage, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = write_pcap(tmp_path / "knock.pcap", of_case(stage, "short", "no_connection"))
    answer = explain(stage, capsys, path, *HOSTS)
    assert answer["conclusion"]["kind"] == "cut"
    assert "the capture truncated the first knock" in answer["conclusion"]["what"]


def test_source_without_packets(stage: Stage, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = write_pcap(tmp_path / "knock.pcap", of_case(stage, "ethernet", "alone"))
    answer = explain(stage, capsys, path, "--source", "203.0.113.99")
    assert answer["conclusion"]["kind"] == "silence"


def test_client_side_capture_shows_icmp_error(stage: Stage, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A router's ICMP error shows that the knock did not arrive."""
    path = write_pcap(tmp_path / "knock.pcap", of_case(stage, "client", "unreachable"))
    answer = explain(stage, capsys, path, "--host", failing_knocks.UNREACHABLE)
    assert (answer["conclusion"]["kind"], answer["opened"]) == ("unreachable", False)
    assert case_of("unreachable").says in answer["conclusion"]["what"]


@pytest.mark.parametrize("way", ["cooked", "cooked2"])
def test_knocks_from_the_host_itself(
    stage: Stage, capsys: pytest.CaptureFixture[str], tmp_path: Path, way: str
) -> None:
    frames = concerning(stage.captured[way], [stage.played["own_packets"].source.packed])
    own = [frame for frame in frames if frame.data.count(stage.played["own_packets"].source.packed) == 2]
    answer = explain(stage, capsys, write_pcap(tmp_path / "knock.pcap", own), *HOSTS)
    assert answer["conclusion"]["kind"] == "own_packets"
    assert case_of("own_packets").says in answer["conclusion"]["what"]
    assert ("ssh", "198.51.100.2") not in stage.opened


def test_device_without_link_header(stage: Stage, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    frames = of_case(stage, "tunnel", "interface")
    assert {frame.link for frame in frames} == {101}
    answer = explain(stage, capsys, write_pcap(tmp_path / "knock.pcap", frames), "--host", "10.60.0.1")
    assert (answer["conclusion"]["kind"], answer["opened"]) == ("no_connection", True)
    assert ("ssh", "10.60.0.9") in stage.opened


@pytest.mark.parametrize("order", ["<", ">"], ids=["little", "big"])
def test_unwatched_interface(stage: Stage, capsys: pytest.CaptureFixture[str], tmp_path: Path, order: str) -> None:
    config = tmp_path / "doorward.toml"
    config.write_text(DOORS.replace("[gate]", '[gate]\ninterfaces = ["eth0"]'))
    path = write_pcapng(tmp_path / "knock.pcapng", of_case(stage, "tunnel", "interface"), "tun0", order=order)
    answer = explain(stage._replace(config=config), capsys, path, "--host", "10.60.0.1")
    assert answer["conclusion"]["kind"] == "interface"
    assert case_of("interface").says in answer["conclusion"]["what"]


def case_of(kind: str) -> Case:
    return next(case for case in (*CASES, *PLACES) if case.kind == kind)
