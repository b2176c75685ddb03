"""Bans: they end by themselves, survive the daemon, and their file may be anything."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from doorward.daemon import bans as module
from doorward.daemon.bans import BanList
from doorward.errors import NegativeResult
from doorward.model import parse_source
from doorward.nftables.fake import FakeFirewall
from tests.support.errors import raises

HERE, THERE = ip_address("192.0.2.7"), ip_address("2001:db8:a:b::7")
CLOCK = [1_777_616_100.0]


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    CLOCK[0] = 1_777_616_100.0
    monkeypatch.setattr(time, "time", lambda: CLOCK[0])
    yield
    monkeypatch.undo()


def bans_at(path: Path, gate: FakeFirewall | None = None) -> BanList:
    return BanList(path / "bans.json", gate or FakeFirewall(lambda: CLOCK[0]), lambda *_: pytest.fail("it was kept"))


def test_a_ban_holds_until_its_end(tmp_path: Path) -> None:
    gate = FakeFirewall(lambda: CLOCK[0])
    bans = bans_at(tmp_path, gate)
    assert bans.add(HERE, 60, time.time()) == HERE
    assert bans.add(THERE, 3600, time.time()) == ip_network("2001:db8:a:b::/64")
    assert gate.banned() == {HERE: 60, ip_network("2001:db8:a:b::/64"): 3600}
    for text in "192.0.2.7", "2001:db8:a:b::7", "2001:db8:a:b:ffff::1", "2001:db8:a:b::/72":
        assert bans.contains(parse_source(text))
    for text in "192.0.2.8", "192.0.2.0/24", "2001:db8:a:c::7", "2001:db8::/32":
        assert not bans.contains(parse_source(text))
    CLOCK[0] += 60
    assert not bans.contains(HERE)
    assert list(bans.active()) == [ip_network("2001:db8:a:b::/64")]
    with raises(NegativeResult, "not-banned"):
        bans.remove(HERE)
    bans.remove(ip_address("2001:db8:a:b::99"))
    assert (bans.active(), gate.banned()) == ({}, {})


def test_another_time_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    bans = bans_at(tmp_path)
    bans.add(HERE, 3600, time.time())
    bans.add(HERE, 60, time.time())
    assert bans.active() == {HERE: CLOCK[0] + 60}


def test_the_next_daemon_puts_them_into_its_gate_for_what_is_left(tmp_path: Path) -> None:
    bans = bans_at(tmp_path)
    bans.add(HERE, 60, time.time())
    bans.add(THERE, 3600, time.time())
    CLOCK[0] += 100
    gate = FakeFirewall(lambda: CLOCK[0])
    bans_at(tmp_path, gate).restore()
    assert gate.banned() == {ip_network("2001:db8:a:b::/64"): 3500}
    assert (tmp_path / "bans.json").stat().st_mode & 0o777 == 0o600


def test_there_is_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BANS", 2)
    bans = bans_at(tmp_path)
    bans.add(HERE, 60, time.time())
    bans.add(THERE, 60, time.time())
    with raises(NegativeResult, "bans-full"):
        bans.add(ip_address("192.0.2.8"), 60, time.time())
    bans.add(HERE, 120, time.time())
    CLOCK[0] += 60
    bans.add(ip_address("192.0.2.8"), 60, time.time())


def test_where_it_cannot_be_kept_it_holds_and_that_is_said(tmp_path: Path) -> None:
    logged: list[str] = []
    gate = FakeFirewall(lambda: CLOCK[0])
    BanList(tmp_path / "missing" / "bans.json", gate, lambda words, _: logged.append(words)).add(HERE, 60, time.time())
    assert gate.banned() == {HERE: 60}
    assert "bans hold, and a restart forgets this change" in logged[0]


PLACES = st.sampled_from(["192.0.2.7", "2001:db8::/64", "::/0", "x", "fe80::1%1"])
FILES = st.dictionaries(PLACES, st.floats() | st.none()).map(lambda kept: json.dumps(kept).encode())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary() | FILES)
def test_any_file_is_bans_or_none(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "bans.json").write_bytes(raw)
    bans = bans_at(tmp_path)
    bans.restore()
    for until_s in bans.active().values():
        assert CLOCK[0] < until_s < CLOCK[0] + 366 * 86_400
