"""What the daemon answers: everything is the daemon's own but the packet filter, which is in memory."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from doorward import __version__
from doorward.cli.metrics_server import families
from doorward.core.diff import SetChanges
from doorward.daemon.event_stream import Subscriber
from doorward.daemon.ledger import Ledger
from doorward.daemon.log import Log
from doorward.errors import DoorwardError, HostError, NegativeResult, UsageError
from doorward.kernel.socket_writer import SocketWriter
from doorward.model import Element
from doorward.nftables.ruleset import COUNTERS
from tests.support.documents import ROOT
from tests.support.errors import raises
from tests.support.in_process_daemon import InProcessDaemon
from tests.support.openings import element
from tests.support.processes import own_namespace


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[InProcessDaemon]:
    daemon = InProcessDaemon(Ledger(tmp_path / "ledger.sqlite3"), Log("text"))
    yield daemon
    daemon.close()


A22, A80, A443 = (element(f"192.0.2.7 {port}/tcp") for port in (22, 80, 443))


def not_in_reference(fields: dict[str, Any]) -> list[str]:
    page = (ROOT / "docs/reference/json.md").read_text()
    return [name for name in fields if f"`{name}`" not in page]


def test_opening_and_closing_by_hand(daemon: InProcessDaemon) -> None:
    assert daemon.shows() == []
    before_s = time.time()
    opening = daemon.ask("open", "ssh", "192.0.2.7")["opening"]
    assert not_in_reference(opening) == []
    assert (opening["door"], opening["address"], opening["ports"], opening["by"]) == (
        "ssh",
        "192.0.2.7",
        ["22/tcp"],
        "hand",
    )
    assert opening["since"] == pytest.approx(before_s, abs=1)
    assert opening["until"] - opening["since"] == pytest.approx(30, abs=0.01)
    assert daemon.has() == {A22: 30}
    assert daemon.shows() == [("ssh", "192.0.2.7")]
    assert daemon.recorded() == [("ssh", "192.0.2.7", None)]

    assert daemon.ask("close", "ssh", "192.0.2.7") == {"cut": 0}
    assert daemon.has() == {}
    assert daemon.shows() == []
    assert daemon.recorded() == [("ssh", "192.0.2.7", "hand")]


def test_status(daemon: InProcessDaemon) -> None:
    daemon.gate.loaded = replace(daemon.gate.loaded, states={7: (1,)})
    status = daemon.ask("status")
    assert not_in_reference(status) == []
    assert 0 <= status.pop("uptime_s") < 60
    assert status == {
        "doorward_version": __version__,
        "mode": "guard",
        "pid": os.getpid(),
        "summary": "3 doors, mode guard",
        "generation": "0123abcd",
        "openings": [],
        "doors": [
            {
                "name": door.name,
                "ports": list(map(str, door.opens)),
                "for_s": door.for_ms / 1000,
                "sequence": door.name == "web",
            }
            for door in daemon.doors.values()
        ],
        "door_count": 3,
        "counters": dict.fromkeys(COUNTERS, 0),
        "log_overflows": 0,
        "ledger_trouble": "",
        "gate_trouble": "",
        "config": str(daemon.gate.config),
        "is_loading": False,
        "digest": "",
        "last_good": "",
        "trial": None,
        "signed": None,
        "banned": 0,
        "fleet": None,
    }


def test_details_of_the_file_are_for_the_owner_alone(daemon: InProcessDaemon) -> None:
    daemon.gate.loaded = replace(
        daemon.gate.loaded, digest="0f", last_good="doorward.toml:3: '7000' has no protocol; write it"
    )
    shown = daemon.ask("status", is_owner=True)
    assert (shown["digest"], shown["last_good"]) == (daemon.gate.loaded.digest, daemon.gate.loaded.last_good)
    shown = daemon.ask("status", is_owner=False)
    assert (shown["digest"], bool(shown["last_good"]), "7000" in shown["last_good"]) == ("", True, False)


def test_stats(daemon: InProcessDaemon) -> None:
    daemon.ask("open", "ssh", "192.0.2.7")
    stats = daemon.ask("stats")
    assert {
        key: stats[key] for key in ("summary", "generation", "doors", "openings", "events", "attempts", "sets")
    } == {
        "summary": "3 doors, mode guard",
        "generation": "0123abcd",
        "doors": 3,
        "openings": 1,
        "events": [["opened", "ssh", "hand", 1]],
        "attempts": [],
        "sets": {},
    }
    assert stats["counters"] == dict.fromkeys(COUNTERS, 0)


def test_subscriber_receives_the_state_and_then_the_events(daemon: InProcessDaemon) -> None:
    daemon.ask("open", "ssh", "192.0.2.7")
    follower = daemon.commands.answer({"command": "follow"})
    assert isinstance(follower, Subscriber)
    assert [opening["door"] for opening in follower.first["openings"]] == ["ssh"]
    assert follower.first["doors"][1]["ports"] == ["80/tcp", "443/tcp"]
    ours, theirs = socket.socketpair()
    with ours, theirs, theirs.makefile("rb") as lines:
        follower.begin(SocketWriter(daemon.loop, ours))
        daemon.ask("close", "ssh", "192.0.2.7")
        event = json.loads(lines.readline())
        assert {"event": "closed", "door": "ssh", "address": "192.0.2.7", "by": "hand"}.items() <= event.items()
        follower.end()
        daemon.ask("open", "ssh", "192.0.2.7")
        ours.shutdown(socket.SHUT_WR)
        assert lines.readline() == b""


OWNERS = ["apply", "confirm", "reload_hooks", "off", "ban", "unban"]


def test_the_list_of_commands_is_whole(daemon: InProcessDaemon) -> None:
    assert daemon.commands._handlers.keys() == {*OWNERS, "bans", "close", "follow", "stats", "open", "status"}


@pytest.mark.parametrize("command", OWNERS)
def test_members_of_the_group_may_neither_change_the_gate_nor_ban(daemon: InProcessDaemon, command: str) -> None:
    with pytest.raises(UsageError, match=f"^{command} is for root: "):
        daemon.ask(command, address="192.0.2.7", is_owner=False)
    assert daemon.ask("bans") == {"bans": []}


@pytest.mark.parametrize("command", [*OWNERS, "bans", "close", "follow", "open", "status"])
def test_metrics_user_may_read_the_stats_and_nothing_else(daemon: InProcessDaemon, command: str) -> None:
    with raises(UsageError, "not-permitted"):
        daemon.ask(command, "ssh", "192.0.2.7", is_owner=False, is_reader=True)


def test_stats_for_the_metrics_user_contain_no_address(daemon: InProcessDaemon) -> None:
    whole = daemon.ask("stats")
    stats = daemon.ask("stats", is_owner=False, is_reader=True)
    assert whole.keys() - stats.keys() == {"attempts", "listed"}
    assert [*families(stats)] == [*families(whole)]


def test_for_how_long(daemon: InProcessDaemon) -> None:
    transcript: list[tuple[object, float]] = [
        (None, 600),  # the door's own
        ("20m", 1200),
        ("5s", 1200),  # never shortened
        ("365d", 365 * 86_400),
    ]
    for for_, expected in transcript:
        opening = daemon.ask("open", "web", "192.0.2.7", **{"for": for_})["opening"]
        assert opening["until"] - time.time() == pytest.approx(expected, abs=1)
        assert daemon.firewall.elements() == pytest.approx({A80: expected, A443: expected}, abs=1)
    assert len(daemon.recorded()) == 1


@pytest.mark.parametrize(
    ("for_", "code"),
    [
        ("366d", "duration-too-long"),
        ("99999999999999d", "duration-too-long"),
        ("0s", "zero-duration"),
        ("90", "invalid-duration"),
        ("soon", "invalid-duration"),
        ("-5s", "invalid-duration"),
        ("", "invalid-duration"),
        (90, "missing-field"),
    ],
)
def test_durations_that_are_none(daemon: InProcessDaemon, for_: object, code: str) -> None:
    with raises(UsageError, code):
        daemon.ask("open", "ssh", "192.0.2.7", **{"for": for_})
    assert daemon.shows() == []
    assert daemon.has() == {}


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8::7", "2001:db8::7"),
        ("2001:0DB8:0:0:0:0:0:7", "2001:db8::7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),  # its packets are IPv4
        ("::ffff:c000:207", "192.0.2.7"),
    ],
)
def test_an_address_has_one_spelling(daemon: InProcessDaemon, written: str, meant: str) -> None:
    assert daemon.ask("open", "ssh", written)["opening"]["address"] == meant
    assert daemon.has() == {element(f"{meant} 22/tcp"): 30}
    daemon.ask("close", "ssh", written)
    assert daemon.has() == {}


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("home", "invalid address 'home'; write it like 192.0.2.7 or 2001:db8::7"),
        ("", "invalid address"),
        ("192.0.2", "invalid address"),
        ("192.0.2.7/32", "(single|invalid) (address|network)"),
        ("192.0.2.7/24", "(single|invalid) (address|network)"),
        ("192.0.2.7 ", "invalid address"),
        ("192.0.2.007", "invalid address"),
        ("3221225991", "invalid address"),
        ("fe80::1%eth0", "names an interface; write the address without %eth0"),
        ("::ffff:192.0.2.7%1", "names an interface"),
        (3221225991, "needs a text 'address'"),
        (None, "needs a text 'address'"),
        (["192.0.2.7"], "needs a text 'address'"),
    ],
)
def test_addresses_that_are_none(daemon: InProcessDaemon, written: object, says: str) -> None:
    for command in "open", "close":
        with pytest.raises(UsageError, match=says):
            daemon.ask(command, "ssh", written)
    assert daemon.shows() == []


@pytest.mark.parametrize(
    ("command", "words", "error", "says"),
    [
        ("open", ["shh", "192.0.2.7"], UsageError, "there is no door 'shh'; did you mean 'ssh'?"),
        ("open", ["zzz", "192.0.2.7"], UsageError, "there is no door 'zzz'; `doorward check`"),
        ("open", [7, "192.0.2.7"], UsageError, "needs a text 'door'"),
        ("open", [], UsageError, "needs a text 'door'"),
        ("open", ["ssh"], UsageError, "needs a text 'address'"),
        ("close", ["shh", "192.0.2.7"], UsageError, "there is no door 'shh'; did you mean 'ssh'?"),
        (
            "close",
            ["ssh", "192.0.2.7"],
            NegativeResult,
            "ssh is not open to 192.0.2.7; `doorward status` lists what is",
        ),
        ("close", ["ssh"], UsageError, "needs a text 'address'"),
        ("reboot", [], UsageError, "unknown command 'reboot'; known commands: status, open, close"),
    ],
)
def test_what_cannot_be_answered(
    daemon: InProcessDaemon, command: str, words: list[object], error: type[DoorwardError], says: str
) -> None:
    with pytest.raises(error) as caught:
        daemon.ask(command, *words)
    assert says in str(caught.value)


def test_a_port_stays_open_as_long_as_one_door_wants_it(daemon: InProcessDaemon) -> None:
    transcript: list[tuple[str, str, dict[str, object], dict[Element, float]]] = [
        ("open", "web", {}, {A80: 600, A443: 600}),
        ("open", "admin", {"for": "20m"}, {A80: 1200, A443: 600, A22: 1200}),
        ("open", "ssh", {}, {A80: 1200, A443: 600, A22: 1200}),
        ("close", "admin", {}, {A80: 600, A443: 600, A22: 30}),
        ("close", "ssh", {}, {A80: 600, A443: 600}),
        ("close", "web", {}, {}),
    ]
    for command, name, more, expected in transcript:
        daemon.ask(command, name, "192.0.2.7", **more)
        assert daemon.has() == expected


@pytest.mark.netns
def test_closing_may_cut_connections_of_which_there_are_none(daemon: InProcessDaemon) -> None:
    with own_namespace():  # it looks at all of a host
        for address in "192.0.2.7", "2001:db8::7":
            daemon.ask("open", "ssh", address)
            assert daemon.ask("close", "ssh", address, cut=True) == {"cut": 0}


def test_a_door_that_is_configured_no_more_can_be_closed(daemon: InProcessDaemon) -> None:
    daemon.ask("open", "ssh", "192.0.2.7")
    del daemon.doors["ssh"]
    with pytest.raises(UsageError):
        daemon.ask("open", "ssh", "192.0.2.8")
    daemon.ask("close", "ssh", "192.0.2.7")
    assert daemon.has() == {}


def test_an_entry_that_the_kernel_took_away_meanwhile_is_closed_all_the_same(daemon: InProcessDaemon) -> None:
    daemon.ask("open", "ssh", "192.0.2.7")
    daemon.firewall.apply(SetChanges({}, frozenset({A22})))
    assert daemon.ask("close", "ssh", "192.0.2.7") == {"cut": 0}
    assert daemon.recorded() == [("ssh", "192.0.2.7", "hand")]


def test_what_the_filter_refuses_is_not_open(daemon: InProcessDaemon) -> None:
    daemon.firewall.stuck = True
    with pytest.raises(HostError, match="stuck"):
        daemon.ask("open", "ssh", "192.0.2.7")
    assert daemon.shows() == []
    assert daemon.recorded() == [("ssh", "192.0.2.7", "refused")]


def test_prolonging_that_the_filter_refuses_leaves_what_stood(daemon: InProcessDaemon) -> None:
    daemon.ask("open", "ssh", "192.0.2.7")
    daemon.firewall.stuck = True
    with pytest.raises(HostError, match="stuck"):
        daemon.ask("open", "ssh", "192.0.2.7", **{"for": "1h"})
    assert daemon.has() == {A22: 30}
    assert daemon.shows() == [("ssh", "192.0.2.7")]
    assert daemon.ask("status")["openings"][0]["until"] == pytest.approx(time.time() + 30, abs=1)
    assert daemon.recorded() == [("ssh", "192.0.2.7", None)]


def test_closing_that_the_filter_refuses_leaves_it_open_and_says_so(daemon: InProcessDaemon) -> None:
    daemon.ask("open", "ssh", "192.0.2.7")
    daemon.firewall.stuck = True
    with pytest.raises(HostError, match="stuck"):
        daemon.ask("close", "ssh", "192.0.2.7")
    assert daemon.shows() == [("ssh", "192.0.2.7")]  # it is open, and can be closed again
    daemon.firewall.stuck = False
    daemon.ask("close", "ssh", "192.0.2.7")
    assert daemon.has() == {}


def test_a_ban_closes_every_door_and_opens_none(daemon: InProcessDaemon) -> None:
    for door, address in ("ssh", "192.0.2.7"), ("web", "192.0.2.7"), ("ssh", "192.0.2.8"), ("ssh", "2001:db8::9"):
        daemon.ask("open", door, address)
    assert daemon.ask("ban", address="192.0.2.7", **{"for": "2h"}) == {
        "ban": "192.0.2.7",
        "for": 7200.0,
        "closed": 2,
        "cut": 0,
    }
    assert daemon.ask("ban", address="2001:db8::7") == {"ban": "2001:db8::/64", "for": 3600.0, "closed": 1, "cut": 0}
    assert daemon.shows() == [("ssh", "192.0.2.8")]
    assert set(daemon.has()) == {element("192.0.2.8 22/tcp")}
    assert [(address, ended) for _, address, ended in daemon.openings_recorded()] == [
        ("192.0.2.7", "ban"),
        ("192.0.2.7", "ban"),
        ("192.0.2.8", None),
        ("2001:db8::9", "ban"),
    ]
    for address in "192.0.2.7", "2001:db8::8":
        with raises(NegativeResult, "is-banned"):
            daemon.ask("open", "ssh", address)
    assert [ban for ban, _ in daemon.ask("bans")["bans"]] == ["192.0.2.7", "2001:db8::/64"]
    assert daemon.ask("unban", address="192.0.2.7") == {"ban": "192.0.2.7"}
    daemon.ask("open", "ssh", "192.0.2.7")
    with raises(NegativeResult, "not-banned"):
        daemon.ask("unban", address="192.0.2.7")


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "::1", "224.0.0.1", "0.0.0.0", "::", "169.254.1.1", "fe80::1", "ff02::1"]
)
def test_addresses_that_no_client_can_have_are_not_banned(daemon: InProcessDaemon, address: str) -> None:
    with raises(UsageError, "own-address"):
        daemon.ask("ban", address=address)


def test_what_the_filter_refuses_is_banned_all_the_same(daemon: InProcessDaemon) -> None:
    daemon.ask("open", "ssh", "192.0.2.7")
    daemon.firewall.stuck = True  # the element cannot be removed; the ban precedes it
    with pytest.raises(HostError, match="stuck"):
        daemon.ask("ban", address="192.0.2.7")
    assert list(daemon.firewall.banned()) == [A22.address]
    assert daemon.shows() == []
