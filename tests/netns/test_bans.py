"""Bans, with real packets: a banned source gets in by no door, in no mode, whatever else happens to the gate."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from doorward.lab.topology import Lab
from doorward.nftables.ban_sets import ban_network
from doorward.nftables.libnftables import NftFirewall
from tests.support import shield_object
from tests.support.daemon import PATIENCE_S, RunningDaemon, Visitors, running_daemon, seconds_of

pytestmark = pytest.mark.netns("knock", "nft")

CONFIG = """
[gate]
mode = "{mode}"
public = ["80/tcp"]
[doors.ssh]
knock = ["7001/tcp", "7002/udp", "7003/tcp"]
opens = ["22/tcp"]
for = "10m"
"""
SEQUENCE = ("7001", "7002:udp", "7003")


@contextmanager
def standing(lab: Lab, folder: Path, mode: str) -> Iterator[RunningDaemon]:
    for port in 22, 80:
        lab.server.start_greeter(port)
    with running_daemon(lab.server, folder, CONFIG.format(mode=mode)) as daemon:
        yield daemon


@pytest.fixture
def daemon(direct_lab: Lab, tmp_path: Path) -> Iterator[RunningDaemon]:
    with standing(direct_lab, tmp_path, "stealth") as daemon:
        yield daemon


@pytest.mark.parametrize("mode", ["guard", "stealth"])
@pytest.mark.parametrize("version", [4, 6])
def test_banned_source_is_dropped_and_its_knocks_are_ignored(
    direct_lab: Lab, tmp_path: Path, mode: str, version: int
) -> None:
    one, other = Visitors(direct_lab).crowd(version, 2)
    with standing(direct_lab, tmp_path, mode) as daemon:
        one.knock_and_connect(*SEQUENCE).close()
        daemon.event("opened", address=str(one))
        done = daemon.run("ban", one, "--for", "2h").stdout
        assert done == f"{ban_network(one.source)} is banned for 2h; 1 door closed to it\n"
        daemon.event("closed", address=str(one), by="ban")
        assert not one.gets_in()
        one.knock(*SEQUENCE)
        assert not one.gets_in()
        assert one.gets_in(80)  # what is public is so to everybody
        unseen = 2 if shield_object.is_added(daemon.config) else 0  # the shield drops knock packets before
        assert daemon.counters()["banned"] >= 4 - unseen
        assert daemon.counters()["knocked"] == 1
        other.knock_and_connect(*SEQUENCE).close()  # nobody else is

        assert daemon.run("unban", one).stdout == f"{ban_network(one.source)} is no longer banned\n"
        one.knock_and_connect(*SEQUENCE).close()
        daemon.event("opened", address=str(one))


def test_a_connection_goes_on_unless_it_is_cut(direct_lab: Lab, daemon: RunningDaemon) -> None:
    visitor = Visitors(direct_lab).fresh(4)
    with visitor.knock_and_connect(*SEQUENCE) as connection, connection.makefile("rwb", buffering=0) as lines:
        connection.settimeout(PATIENCE_S)
        assert lines.readline().startswith(b"welcome")
        daemon.run("ban", visitor)
        lines.write(b"still here\n")
        assert lines.readline() == b"still here\n"
        assert daemon.run("ban", visitor, "--cut").stdout.endswith("; 1 connection cut\n")
        with pytest.raises(ConnectionResetError):
            lines.readline()


def test_a_ban_outlives_reloads_restarts_repairs_and_the_table(direct_lab: Lab, daemon: RunningDaemon) -> None:
    one = Visitors(direct_lab).fresh(6)
    daemon.run("ban", one, "--for", "1d")

    def holds() -> bool:
        one.knock(*SEQUENCE)
        found = direct_lab.server.call(NftFirewall().banned)
        return not one.gets_in() and 86_000 < found.get(ban_network(one.source), 0) <= 86_400

    assert holds()
    daemon.reload(CONFIG.format(mode="guard") + '[doors.web]\nknock = ["7101/tcp", "7102/tcp"]\nopens = ["443/tcp"]\n')
    assert holds()
    direct_lab.server.run(["nft", "flush", "ruleset"])
    daemon.message("restored after")
    assert holds()
    direct_lab.server.run(["nft", "flush", "set", "inet", "doorward", "banned6"])
    daemon.message("restored after")
    assert holds()
    daemon.end()
    direct_lab.server.run(["nft", "delete", "table", "inet", "doorward"])  # as after a reboot
    daemon.start()
    assert holds()


def test_bans_are_listed(direct_lab: Lab, daemon: RunningDaemon) -> None:
    assert daemon.run("ban").stdout == "no address is banned\n"
    daemon.run("ban", "192.0.2.7", "--for", "8h")
    daemon.run("ban", "2001:db8::7")
    head, first, second = (line.split(maxsplit=1) for line in daemon.run("ban").stdout.splitlines())
    assert (head, first[0], second[0]) == (["banned", "left"], "192.0.2.7", "2001:db8::/64")
    assert first[1] in ("8h", "7h 59m")
    assert second[1].split()[0] in ("1h", "59m")
    found = json.loads(daemon.run("ban", "--json").stdout)
    assert [each["address"] for each in found["bans"]] == ["192.0.2.7", "2001:db8::/64"]
    assert daemon.ask("stats")["bans"] == 2
    assert "2 are banned; `doorward ban` lists them\n" in daemon.run("status").stdout
    refused = daemon.run("open", "ssh", "192.0.2.7", check=False)
    assert (refused.returncode, "is banned; `doorward unban" in refused.stderr) == (1, True)


def test_a_ban_is_recorded_and_explained_as_a_ban(daemon: RunningDaemon) -> None:
    daemon.run("ban", "192.0.2.7", "--for", "8h")
    daemon.run("ban", "2001:db8::7")
    records = daemon.log()
    left = [round(seconds_of(each["until"]) - seconds_of(each["at"])) for each in records]
    found = [(each["event"], each["address"], for_s, each["ended"]) for each, for_s in zip(records, left, strict=True)]
    assert found == [("banned", "192.0.2.7", 8 * 3600, None), ("banned", "2001:db8::/64", 3600, None)]
    first, second = daemon.run("log").stdout.splitlines()
    until = first.split(" until ")[1]
    assert first.split()[2:4] == ["banned", "192.0.2.7"]
    for address, line in ("192.0.2.7", first), ("2001:db8::99", second):  # of a network, every address
        assert daemon.run("log", "--address", address).stdout == line + "\n"
        explained = daemon.run("explain", address, check=False)
        assert explained.returncode == 1
        assert line in explained.stdout
        assert f"=> {address} is banned until " in explained.stdout
    assert f"=> 192.0.2.7 is banned until {until}\n" in daemon.run("explain", "192.0.2.7", check=False).stdout
    live = daemon.run("explain", "--live", "192.0.2.7", "--for", "1ms", "--json", check=False)
    assert json.loads(live.stdout)["conclusion"]["kind"] == "banned"
    daemon.run("unban", "192.0.2.7")
    assert f"until {until}; ended after " in daemon.run("log", "--address", "192.0.2.7").stdout
    assert "=> no knock from 192.0.2.7 was ever completed" in daemon.run("explain", "192.0.2.7", check=False).stdout


def test_nobody_bans_himself(daemon: RunningDaemon) -> None:
    daemon.env["SSH_CONNECTION"] = "2001:db8:5::7 40000 2001:db8:1::2 22"
    refused = daemon.run("ban", "2001:db8:5::99", check=False)
    assert refused.returncode == 2
    assert "this SSH session comes from there" in refused.stderr
    assert daemon.ask("bans") == {"bans": []}
