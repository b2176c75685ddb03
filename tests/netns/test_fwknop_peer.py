"""Generated packets of Debian's client, at Debian's fwknopd and here: what opens there opens here, and no more."""

from __future__ import annotations

import random
import re
import string
import time
from collections.abc import Iterable
from ipaddress import IPv4Address
from typing import NamedTuple

import pytest

from bench.fwknop import running
from doorward.config import toml
from doorward.fwknop import keys
from doorward.fwknop.authorizer import FwknopAuthorizer
from doorward.fwknop.spa_packet import is_candidate
from doorward.importer.from_fwknop import convert
from doorward.importer.fwknop_conf import parse
from doorward.lab.topology import Lab
from doorward.model import Port
from doorward.signed.authorize import ValidKnock
from tests.support.daemon import until
from tests.support.fwknop import Keys
from tests.support.signed import send

pytestmark = pytest.mark.netns("fwknop", "fwknopd", "iptables")

CASES = 200
LETTERS = string.ascii_uppercase + string.ascii_lowercase + string.digits + "+/"
LAST = IPv4Address("10.9.255.254")  # of the packet that is sent last
HASHES = ("sha256", "sha384", "sha512", "sha3_256", "sha3_512")
DIGESTS = ("md5", "sha1", *HASHES)
STANZAS = (
    ["OPEN_PORTS tcp/22"],
    ["OPEN_PORTS tcp/22, tcp/80, udp/53", "FW_ACCESS_TIMEOUT 3600", "MAX_FW_TIMEOUT 7200"],
    ["OPEN_PORTS tcp/22, tcp/80", "RESTRICT_PORTS tcp/80", "REQUIRE_USERNAME alice"],
    ["OPEN_PORTS tcp/22", "REQUIRE_SOURCE_ADDRESS Y", "ACCESS_EXPIRE 12/31/2030"],
    ["OPEN_PORTS tcp/22", "ACCESS_EXPIRE 01/01/2020"],
    ["OPEN_PORTS tcp/443", "ACCESS_EXPIRE_EPOCH 1900000000", "MAX_FW_TIMEOUT 120"],
)
RULE = re.compile(r"-A FWKNOP_INPUT -s ([0-9.]+)/32 -p (tcp|udp) .*--dport (\d+) .*_exp_(\d+)")


class Difference(NamedTuple):
    """What opens there and not here, or with `opens_here` the other way round."""

    what: str
    own: Keys
    lines: list[str]
    words: list[str]  # of the client
    opens_here: bool = False


SSH = ["OPEN_PORTS tcp/22"]
MANY = ",".join(f"tcp/{port}" for port in range(20_001, 20_010))
LONG = ["--access", MANY, "--digest-type", "sha512"]
DIFFERENCES = (
    Difference("nothing proves who sent it", Keys.random()._replace(hmac=None), SSH, []),
    Difference("an HMAC of MD5", Keys.random("md5"), SSH, []),
    Difference("an HMAC of SHA-1", Keys.random("sha1"), SSH, []),
    Difference("a stanza without OPEN_PORTS, for any port", Keys.random(), [], []),
    Difference("another mode than CBC", Keys.random(), [*SSH, "ENCRYPTION_MODE CTR"], ["--encryption-mode", "CTR"]),
    Difference("a loopback address", Keys.random(), SSH, ["--allow-ip", "127.0.0.9"]),
    Difference("a multicast address", Keys.random(), SSH, ["--allow-ip", "224.0.0.9"]),
    Difference("the broadcast address", Keys.random(), SSH, ["--allow-ip", "255.255.255.255"]),
    Difference("400 letters", Keys.random("sha512"), [f"OPEN_PORTS {MANY}"], LONG, opens_here=True),
)


class Case(NamedTuple):
    """A packet for an address that no other case has, and how it was made."""

    allowed: IPv4Address
    packet: bytes
    made: str


Opened = dict[tuple[IPv4Address, Port], float]  # an address and a port, and until when they are open


def _cases(shared: list[Keys], server: object, seed: int) -> Iterable[Case]:
    own = random.Random(seed)
    for number in range(CASES):
        stanza = own.randrange(len(shared))
        allowed = IPv4Address("10.9.0.0") + number + 1
        ports = own.choice(["tcp/22", "tcp/22", "tcp/80", "udp/53", "tcp/22,tcp/80", "tcp/22,udp/53,tcp/80", "tcp/443"])
        words: list[object] = ["--access", ports, "--digest-type", own.choice(DIGESTS)]
        words += ["--source-ip"] if own.random() < 0.08 else ["--allow-ip", allowed]
        words += ["--spoof-user", own.choice(["alice", "bob"])]
        if own.random() < 0.4:
            words += ["--fw-timeout", own.choice([200, 299, 301, 4000, 9000])]
        if own.random() < 0.2:
            way = own.choice(["--time-offset-plus", "--time-offset-minus"])
            words += [way, own.choice(["60s", "100s", "3m", "1D"])]
        if own.random() < 0.15 and "," not in ports:
            words += own.choice([["--nat-access", "10.0.0.5:22"], ["--nat-local", "--nat-port", 40022]])
        if own.random() < 0.05:
            words += ["--encryption-mode", own.choice(["CTR", "OFB", "CFB"])]
        keys_of = shared[stanza] if own.random() < 0.93 else Keys.random(shared[stanza].digest)
        yield Case(allowed, keys_of.by_client(*words, server=server), f"stanza {stanza}: {' '.join(map(str, words))}")


def _opened_here(access: str, cases: Iterable[Case], source: IPv4Address, now_s: float) -> Opened:
    converted = convert(parse(access, "access.conf"), "access.conf", lambda *_: None, lambda _: None)
    configuration = toml.parse(converted.toml, "doorward.toml")
    assert configuration.fwknop is not None
    stanzas, faults = keys.parse(converted.keys.decode(), "fwknop.keys", configuration.fwknop.stanzas)
    assert faults == []
    doors = {door.name: door for door in configuration.doors}
    authorizer = FwknopAuthorizer(stanzas, doors, configuration.fwknop.window_ms)
    opened: Opened = {}
    for case in cases:
        assert is_candidate(case.packet)
        knock = authorizer.authorize(case.packet, source.packed, round(now_s * 1000))
        if isinstance(knock, ValidKnock):
            assert isinstance(knock.source, IPv4Address)
            for port in (port for name in (knock.door, *knock.also) for port in doors[name].opens):
                until_s = now_s + (knock.for_ms or 0) / 1000
                opened[knock.source, port] = max(until_s, opened.get((knock.source, port), 0.0))
    return opened


def _opened_there(rules: str) -> Opened:
    opened: Opened = {}
    for source, protocol, number, until_s in RULE.findall(rules):
        key = IPv4Address(source), Port.parse(f"{number}/{protocol}")
        opened[key] = max(float(until_s), opened.get(key, 0.0))
    return opened


def test_opens_what_fwknopd_opens(direct_lab: Lab) -> None:
    shared = [Keys.random(HASHES[number % len(HASHES)]) for number in range(len(STANZAS))]
    shared[1] = Keys(b"sesame", b"another", shared[1].digest)
    access = "".join(own.stanza(*lines) for own, lines in zip(shared, STANZAS, strict=True))
    server, client = direct_lab.server, direct_lab.client
    last = Case(LAST, shared[0].by_client("--access", "tcp/22", "--allow-ip", LAST), "the last")
    cases = [*_cases(shared, server.ipv4, seed=1), last]

    def rules() -> str:
        return server.run(["iptables-save"]).stdout

    with running(direct_lab, access):
        now_s = time.time()
        send(client, client.ipv4, server.ipv4, *(case.packet for case in cases))
        until(lambda: f"{LAST}/32" in rules())
        there = _opened_there(rules())
    here = _opened_here(access, cases, client.ipv4, now_s)
    made = {case.allowed: case.made for case in cases}
    assert [(key, made.get(key[0])) for key in here.keys() ^ there.keys()] == []
    assert [(key, made.get(key[0])) for key, until_s in here.items() if until_s > there[key] + 1] == []
    assert len(there) > CASES / 5


def test_each_intended_difference(direct_lab: Lab) -> None:
    server, client, last = direct_lab.server, direct_lab.client, Keys.random()
    access = "".join(each.own.stanza(*each.lines) for each in DIFFERENCES) + last.stanza(*SSH)
    cases = []
    for number, each in enumerate(DIFFERENCES, 1):
        words = ["--access", "tcp/22", "--allow-ip", f"10.9.0.{number}", *each.words]
        address = IPv4Address(re.findall(r"--allow-ip (\S+)", " ".join(words))[-1])
        cases.append(Case(address, each.own.by_client(*words, server=server.ipv4), each.what))
    cases.append(Case(LAST, last.by_client("--access", "tcp/22", "--allow-ip", LAST, server=server.ipv4), "the last"))

    def opened() -> set[IPv4Address]:
        return {address for address, _ in _opened_there(server.run(["iptables-save"]).stdout)}

    bare = cases[0]
    first = LETTERS.index(chr(bare.packet[0]))
    with running(direct_lab, access):
        send(client, client.ipv4, server.ipv4, *(case.packet for case in cases))
        until(lambda: LAST in opened())
        there = opened()
        server.run(["iptables", "--flush", "FWKNOP_INPUT"])
        for other in (bare.packet + b"=", LETTERS[first ^ 4].encode() + bare.packet[1:]):  # see _spellings
            assert bare.allowed not in opened()
            send(client, client.ipv4, server.ipv4, bare.packet, other)
            until(lambda: bare.allowed in opened())
            server.run(["iptables", "--flush", "FWKNOP_INPUT"])
    here = {address for address, _ in _opened_here(access, cases, client.ipv4, time.time())}
    found = {case.made: (case.allowed in there, case.allowed in here) for case in cases[:-1]}
    assert found == {each.what: (not each.opens_here, each.opens_here) for each in DIFFERENCES}
