"""A scope id can contain any text: no parser accepts one, and addresses are written from their bits."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from ipaddress import IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path

import pytest

from doorward.config import knockd, values
from doorward.daemon import bans, gate_loader, hook_runner, verifier_report
from doorward.daemon.hook_commands import filled
from doorward.daemon.ledger import Ledger
from doorward.errors import DoorwardError, InvalidValueError
from doorward.fleet import etcd_records
from doorward.model import Element, Port, Source, parse_address, parse_source, source_text
from doorward.nftables import ban_sets as gate_bans
from doorward.nftables import libnftables
from doorward.nftables.ruleset import OPEN_SETS
from tests.support.errors import raises
from tests.support.openings import opening

SCOPED = [
    "fe80::1%eth0",
    "fe80::1%",
    "fe80::1%1",
    "fe80::1%;id",
    "fe80::1%$(id)",
    "fe80::1%\nflush ruleset",
    "fe80::%x/64",
    "fe80::/64%x",
    "::ffff:192.0.2.7%x",
    "192.0.2.7%x",
]


def granted(text: str) -> object:
    knock = {"door": "ssh", "source": text, "for_ms": 1, "key": "k", "signer": "00" * 12, "id": "00" * 16, "time_ms": 1}
    knock |= {
        "is_shared": False,
        "once": False,
        "reply": None,
        "path": None,
        "transaction": None,
        "kind": "signed knock",
        "also": [],
    }
    return verifier_report.parse_report(
        json.dumps({"knocks": [knock], "refused": [], "counts": {}, "repeats": []}).encode()
    )


def refused(text: str) -> object:
    telling = {"source": text, "reason": "clock", "words": "", "door": None, "kind": "signed knock"}
    return verifier_report.parse_report(
        json.dumps({"knocks": [], "refused": [telling], "counts": {}, "repeats": []}).encode()
    )


READERS: list[Callable[[str], object]] = [
    parse_address,
    parse_source,
    values.address,
    knockd.target,
    etcd_records.read_address,
    granted,
    refused,
    lambda text: hook_runner.parse_request(json.dumps([1, "open", "ssh", text, ""]).encode()),
    lambda text: gate_loader._connection([text, 1, "192.0.2.7", 22]),
]


@pytest.mark.parametrize("read", READERS)
def test_scope_ids_are_rejected(read: Callable[[str], object]) -> None:
    read("2001:db8::7")
    for text in SCOPED:
        with pytest.raises((ValueError, DoorwardError)):
            read(text)


@pytest.mark.parametrize("value", [7, 3221225991, b"\xc0\x00\x02\x07", None, ["::1"], 1.5, True])
def test_only_text_is_accepted(value: object) -> None:
    with raises(InvalidValueError, "invalid-address"):
        parse_address(value)  # type: ignore[arg-type]


def test_rows_and_files_with_a_scope_id_are_skipped(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite3")
    ledger.opened(opening())
    with closing(sqlite3.connect(ledger.path)) as db, db:
        for text in SCOPED:
            db.execute(
                "INSERT INTO openings (door, address, ports, since, until, opened_by) VALUES (?, ?, ?, ?, ?, ?)",
                ("ssh", text, '["22/tcp"]', 1000.0, 9e9, "hand"),
            )
    assert [str(each.address) for each in ledger.active()] == ["192.0.2.7"]
    ledger.close()
    kept = tmp_path / bans.NAME
    kept.write_text(json.dumps(dict.fromkeys([*SCOPED, "192.0.2.7"], 1e9)))
    assert [str(ban) for ban in bans.read_bans(kept)] == ["192.0.2.7"]


WITH_SCOPE: list[tuple[Source, str]] = [
    (ip_address("fe80::1%; flush ruleset"), "fe80::1"),
    (ip_network("fe80::%; flush ruleset/64"), "fe80::/64"),
    (ip_address("192.0.2.7"), "192.0.2.7"),
    (ip_network("192.0.2.0/24"), "192.0.2.0/24"),
]


@pytest.mark.parametrize(("place", "text"), WITH_SCOPE)
def test_addresses_are_written_from_bits(place: Source, text: str) -> None:
    assert source_text(place) == text
    written = "".join(libnftables._put({Element(place, Port.parse("22/tcp")): 60.0}, OPEN_SETS))
    assert f"{{ {text} . tcp . 22 timeout 60s }}" in written
    assert "ruleset" not in written
    assert filled(("x", "%IP%"), place) == ("x", text)
    assert filled("x %IP%", place) == f"x {text}"


def test_bans_are_written_from_bits() -> None:
    ban = IPv6Network("fe80::%; flush ruleset/64")
    assert "ruleset" not in "".join(gate_bans.ban_commands("inet doorward", {ban: 60.0}))
    assert gate_bans.ban_network(IPv6Address("fe80::1%x")) == IPv6Network("fe80::/64")
