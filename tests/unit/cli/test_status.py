"""`doorward status`: every door, how it opens, who may open it and to whom it is open; what needs attention first."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from doorward.cli.main import main
from tests.support.ssh_keygen import key, public_line

OPENING = {
    "door": "ssh", "address": "192.0.2.7", "ports": ["22/tcp"], "by": "key ada", "once": False,
    "since": 0, "until": 2**31,
}  # fmt: skip
DOORS = [
    {"name": "ssh", "ports": ["22/tcp"], "for_s": 30, "sequence": False},
    {"name": "web", "ports": ["80/tcp", "443/tcp"], "for_s": 30, "sequence": True},
]
CONFIRMATIONS = {"is_on": False, "ports": [], "counts": {}, "not_open": {}}
SIGNED = {
    "takes": True, "ports": ["62201/udp"], "authorized_keys": "/nowhere", "browser": False, "resent": 0, "refused": {},
    "confirmations": CONFIRMATIONS, "fwknop": None,
}  # fmt: skip
ANSWER: dict[str, Any] = {
    "doorward_version": "0.1.0", "uptime_s": 3_725, "pid": 4711, "summary": "2 doors, mode guard", "counters": {},
    "openings": [OPENING], "doors": DOORS, "door_count": 2, "signed": None, "fleet": None, "banned": 0, "trial": None,
    "ledger_trouble": "", "gate_trouble": "", "last_good": "", "config": "/etc/doorward/doorward.toml",
}  # fmt: skip
FIRST = "doorward 0.1.0: 2 doors, mode guard; up 1h 2m, process 4711"


@pytest.fixture
def status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Return what is printed for the daemon's answer, with single spaces and without blank lines."""
    monkeypatch.setenv("CONFIGURATION_DIRECTORY", str(tmp_path))

    def lines(*words: str, exit_status: int = 0, **of: Any) -> list[str]:
        monkeypatch.setattr("doorward.cli.status.ask", lambda *_: ANSWER | of)
        assert main(["status", *words]) == exit_status
        return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines() if line]

    return lines


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """Return authorized keys of five people; one may open no door but web, one has expired."""
    lines = [" ".join(public_line(key("ed25519", number)).split()[:2]) for number in range(5)]
    options = ("", "", "", 'doors="web" ', 'expiry-time="20200101" ')
    path = tmp_path / "authorized_keys"
    names = ("ada", "grace", "linus", "ken", "old")
    path.write_text("".join(f"{o}{line} {name}\n" for o, line, name in zip(options, lines, names, strict=True)))
    path.chmod(0o600)
    return path


def test_every_door_and_then_the_openings(status: Callable[..., Any]) -> None:
    first, head, ssh, web, head_open, opening = status()
    assert (first, head) == (FIRST, "door ports knock who may now")
    assert (ssh, web) == ("ssh 22/tcp none open to 1", "web 80/tcp 443/tcp sequence anyone who knows it closed")
    assert head_open == "open address ports opened by since left"
    assert opening.startswith("ssh 192.0.2.7 22/tcp key ada 1970-01-01 ")


def test_who_may_open_each_door(status: Callable[..., Any], keys: Path) -> None:
    lines = status(openings=[], signed={**SIGNED, "authorized_keys": str(keys)})
    assert lines[2:] == [
        "ssh 22/tcp signed ada, grace, linus closed",
        "web 80/tcp 443/tcp signed or sequence ada, grace, linus, 1 more, anyone who knows it closed",
        "signed knocks: ready on 62201/udp, 4 keys",
    ]


def test_the_same_in_json(status: Callable[..., Any], keys: Path) -> None:
    (line,) = status("--json", signed={**SIGNED, "authorized_keys": str(keys)})
    found = json.loads(line)
    assert found.items() >= {"version": 1, "off_since": None, "doorward_version": "0.1.0", "uptime_s": 3725}.items()
    assert found["doors"] == [
        {**DOORS[0], "signed": True, "people": ["ada", "grace", "linus"]},
        {**DOORS[1], "signed": True, "people": ["ada", "grace", "linus", "ken"]},
    ]
    assert found["openings"][0]["since"] == "1970-01-01T00:00:00.000+00:00"
    assert found["signed"]["ports"] == ["62201/udp"]


def test_keys_that_this_user_may_not_read(status: Callable[..., Any]) -> None:
    assert status(openings=[], signed=SIGNED)[2] == "ssh 22/tcp signed keys (unreadable) closed"
    assert json.loads(status("--json", signed=SIGNED)[0])["doors"][0]["people"] is None


def test_what_needs_attention_comes_first(status: Callable[..., Any]) -> None:
    troubles = {"last_good": "f:1: a fault", "trial": {"left_s": 60, "digest": None}, "ledger_trouble": "no room"}
    lines = status("--color", "always", exit_status=1, **troubles)
    assert lines[0] == FIRST
    assert [line for line in lines if line.startswith("\x1b[31m")] == [lines[1], lines[4], lines[7]]
    assert lines[3] == "f:1: a fault"


def test_many_doors_are_counted(status: Callable[..., Any]) -> None:
    doors = [{**DOORS[0], "name": f"d{number}"} for number in range(200)]
    lines = status(openings=[], doors=doors, door_count=100_000)
    assert (len(lines), lines[-1]) == (23, "… 99,980 more doors")


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({}, "on eth0, eth1"),  # of an older daemon
        ({"at_xdp": ["eth1"], "no_xdp": ""}, "on eth0, eth1 (XDP)"),
        ({"at_xdp": [], "no_xdp": "eth0 has VLANs"}, "on eth0, eth1; no XDP: eth0 has VLANs"),
        ({"interfaces": [], "trouble": "no libbpf"}, "none: no libbpf; the gate works without it"),
    ],
)
def test_where_the_shield_is(status: Callable[..., Any], fields: dict[str, Any], where: str) -> None:
    shield = {"interfaces": ["eth0", "eth1"], "counters": {"dropped": 1_234, "raced": 0}, "trouble": ""}
    (line,) = (line for line in status(shield=shield | fields) if line.startswith("shield: "))
    assert line == f"shield: {where}; 1,234 packets dropped"


@pytest.mark.parametrize(
    ("fwknop", "signed", "words"),
    [(None, None, "not used yet"), (5.0, None, "no signed knock"), (5.0, 4.0, "uses both"), (5.0, 6.0, "moved")],
)
def test_who_has_moved_from_fwknop(
    status: Callable[..., Any], fwknop: float | None, signed: float | None, words: str
) -> None:
    use = {"stanza": "alice", "fwknop": fwknop, "signed": signed, "takes": fwknop is not None}
    (line,) = (line for line in status(signed=SIGNED | {"fwknop": [use]}) if line.startswith("fwknop alice"))
    assert words in line
    assert ("not accepted" in line) is (fwknop is None)
    (found,) = json.loads("".join(status("--json", signed=SIGNED | {"fwknop": [use]})))["signed"]["fwknop"]
    assert found["fwknop"] == (None if fwknop is None else "1970-01-01T00:00:05.000+00:00")
