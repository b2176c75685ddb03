"""A ledger with two weeks of events on a small host, for pictures and tests."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path

from doorward.daemon.ledger import Ledger
from doorward.model import Address, parse_source
from doorward.report.opening_list import MOST_TIMELINES
from tests.support.openings import opening

NOW_S = datetime(2026, 5, 14, 15, 20, tzinfo=UTC).timestamp()
DAYS = 14
SCANNER = "rate limit exceeded (more than 20 knock packets/s); progress reset"
CONFIGURATION = """\
[gate]
mode = "stealth"
public = ["80/tcp", "443/tcp"]

[doors.ssh]
knock = ["17341/tcp", "52018/udp", "9467/tcp", "31190/udp"]
opens = ["22/tcp"]

[doors.postgres]
knock = ["7000/tcp", "8000/tcp"]
opens = ["5432/tcp"]
for = "8h"

[doors.admin]
opens = ["8443/tcp"]
for = "1h"

[signed]
"""
_PEOPLE = (  # door, by whom, from where, ports, how often a working day, for how long
    ("ssh", "key ada@laptop", ("198.51.100.23", "2001:db8:40::23"), "22/tcp", 6, 30),
    ("ssh", "key grace@phone", ("203.0.113.201",), "22/tcp", 2, 30),
    ("ssh", "key backup.example", ("192.0.2.80",), "22/tcp", 1, 600),
    ("postgres", "knock", ("198.51.100.23",), "5432/tcp", 1, 8 * 3600),
    ("postgres", "key linus@desk", ("2001:db8:40::77",), "5432/tcp", 1, 8 * 3600),
    ("admin", "hand", ("192.0.2.14",), "8443/tcp", 0.3, 3600),
)
_NETWORKS = ("192.0.2.{}", "203.0.113.{}", "198.51.100.{}", "2001:db8:bad::{:x}", "2001:db8:5ca0:1::{:x}")
_SIGNED = (
    "signed knock: the packet from key ada@laptop is 4m 12s behind; correct the client's clock",
    "signed knock: the packet from key ada@laptop is 4m 31s behind; correct the client's clock",
    "signed knock: key grace@phone may not open the door postgres",
    "signed knock: authorized_keys does not list the key SHA256:0Jk3vWcBv1Lw8YcJ5cB7yQ1o2m4r6t8v0x2z4A6C8E0",
)
_LONG, _HOSTILE = "W" * 60, "<img src=http://198.51.100.1/x onerror=alert(1)>" + "W" * 60
CROWDED_CONFIGURATION = "".join(
    f'[doors.{_LONG}{number}]\nknock = ["{number}/tcp"]\nopens = ["{number + 1000}/tcp", "{number + 2000}/udp"]\n'
    for number in range(1, 60)
)


def write_sample(path: Path, now_s: float = NOW_S) -> None:
    """Write the ledger; its content is deterministic."""
    choose = random.Random(6)
    ledger = Ledger(path)
    with ledger.transaction():
        for day in range(DAYS, -1, -1):
            _people(ledger, choose, now_s, day)
            _strangers(ledger, choose, now_s, day)
        for address, hours_ago, for_hours in (("203.0.113.44", 300, 24), ("192.0.2.66", 40, 1), ("198.51.100.9", 2, 8)):
            at_s = now_s - hours_ago * 3600
            ledger.banned(parse_source(address), at_s, at_s + for_hours * 3600)
        ledger.opened(opening("ssh", "198.51.100.23", "22/tcp", now_s - 12, now_s + 18, "key ada@laptop"))
    ledger.close()


def write_crowd(path: Path, now_s: float = NOW_S) -> None:
    """Write a ledger with the longest, most numerous and most hostile values."""
    ledger = Ledger(path)
    with ledger.transaction():
        for number in range(3 * MOST_TIMELINES):
            at_s = now_s - 9 * 86400 + number * 6000
            address, by = f"2001:db8:{number:x}:ffff:ffff:ffff:ffff:ffff", f"key {_HOSTILE[:50]}{_LONG}{number}"
            ledger.opened(opening(f"{_LONG}{number}", address, "22/tcp 22/udp", at_s, at_s + 9e5, by))
            ledger.refused(_LONG, parse_source(address), at_s, f"signed knock: {_HOSTILE} {'x' * 300} {number}")
            for source in range(number):
                ledger.refused(None, parse_source(f"2001:db8:ffff:{source:x}:ffff:ffff:ffff:ffff"), at_s, _HOSTILE)
    ledger.close()


def _people(ledger: Ledger, choose: random.Random, now_s: float, day: int) -> None:
    midnight_s = now_s - now_s % 86400 - day * 86400
    is_weekend = datetime.fromtimestamp(midnight_s, UTC).weekday() >= 5
    for door, by, addresses, ports, often, for_s in _PEOPLE:
        often = 1 if "backup" in by else 0 if is_weekend else often
        begin_s = midnight_s
        for _ in range(int(often) + (choose.random() < often % 1)):
            hour = 3.5 if "backup" in by else choose.uniform(8, 17)
            begin_s = max(begin_s + for_s + 60, midnight_s + hour * 3600)
            end_s = begin_s + for_s
            if begin_s > now_s - 60:
                continue
            address = choose.choice(addresses)
            ledger.opened(opening(door, address, ports, begin_s, end_s, by))
            if end_s < now_s:
                ledger.closed(door, parse_source(address), end_s, "time")


def _strangers(ledger: Ledger, choose: random.Random, now_s: float, day: int) -> None:
    midnight_s = now_s - now_s % 86400 - day * 86400
    for number, network in enumerate(_NETWORKS):
        if (day + number) % (number + 1):
            continue  # not every one comes every day
        hour, many = choose.uniform(0, 22), int(choose.paretovariate(0.7) * 6) % 900
        addresses: list[Address] = [ip_address(network.format(choose.randrange(30, 255))) for _ in range(number + 1)]
        for _ in range(many):
            at_s = midnight_s + (hour + abs(choose.gauss(0, 0.9))) * 3600
            if at_s < now_s:
                ledger.refused(None, choose.choice(addresses), at_s, SCANNER)
    for _ in range(choose.randrange(5, 25)):
        at_s = midnight_s + choose.uniform(0, 86400)
        alone = ip_address(f"198.18.{choose.randrange(256)}.{choose.randrange(1, 255)}")
        if at_s < now_s:
            ledger.refused(None, alone, at_s, SCANNER)
    if choose.random() < 0.5 and day:
        for _ in range(3):
            at_s = midnight_s + choose.uniform(8, 18) * 3600
            ledger.refused("ssh", ip_address("198.51.100.23"), at_s, choose.choice(_SIGNED))
