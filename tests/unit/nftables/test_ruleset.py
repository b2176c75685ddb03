"""Automaton to nftables text; golden files contain the text of a small gate, for review."""

from __future__ import annotations

import difflib
import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from doorward.config.schema import Fwknop, FwknopStanza, Gate, Hmac, Mark, Mode, WrongPort
from doorward.core.automaton import compile_doors
from doorward.model import Door, FlagFilter, Port
from doorward.nftables.ruleset import BASE_CHAINS, COUNTERS, Existing, Ruleset, compile_ruleset, default_capacity
from doorward.nftables.shield_chains import ShieldMark

GOLDEN = Path(__file__).parent.parent.parent / "golden"
CAPACITY = 65536
GIB = 1 << 30


def ports(*texts: str) -> tuple[Port, ...]:
    return tuple(map(Port.parse, texts))


DOORS = [
    Door("ssh", ports("7000/tcp", "8000/udp", "9000/tcp"), ports("22/tcp")),
    Door("db", ports("8000/udp", "9000/tcp", "7001/tcp"), ports("5432/tcp", "22/tcp"), for_ms=60_000),
    Door("odd", ports("4001/tcp", "4002/tcp"), ports("25/tcp"), within_ms=500, flags=FlagFilter.parse(("fin", "!syn"))),
    Door("by-hand", (), ports("8080/tcp")),
]
GATES = {
    "observe": Gate(mode=Mode.OBSERVE),
    "guard": Gate(
        mode=Mode.GUARD, interfaces=("eth0", "ppp*"), wrong_port=WrongPort.KNOWN, accept_mark=Mark(0x1000, 0x3000)
    ),
    "stealth": Gate(mode=Mode.STEALTH, public=ports("80/tcp", "443/udp"), ping=False),
}
SIGNED_PORTS = {
    Mode.OBSERVE: ports("62201/udp"),
    Mode.GUARD: ports("62201/udp", "443/udp", "53/udp"),
    Mode.STEALTH: (),
}


FAMILIES = (("ip", "4"), ("ip6", "6"))


def compiled(gate: Gate, doors: list[Door] = DOORS, capacity: int = CAPACITY) -> Ruleset:
    known_only = gate.wrong_port is WrongPort.KNOWN
    automaton = compile_doors(doors, public=gate.public, known_only=known_only)
    return compile_ruleset(
        doors, automaton, gate, capacity, SIGNED_PORTS[gate.mode], is_for_browsers=gate.mode is Mode.GUARD
    )


@pytest.mark.parametrize("name", GATES)
def test_text_matches_the_golden_file(name: str) -> None:
    path, text = GOLDEN / f"{name}.nft", compiled(GATES[name]).full_text()
    if os.environ.get("GOLDEN") == "write":  # after a change: write, then review the diff
        path.write_text(text)
    assert text == path.read_text()


@pytest.mark.netns("nft")
@pytest.mark.parametrize("name", GATES)
def test_nft_accepts_the_text(name: str) -> None:
    assert shutil.which("nft")
    done = subprocess.run(
        ["nft", "--check", "--file", "-"],
        input=compiled(GATES[name]).full_text(),
        text=True,
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_shield_adds_a_set_rules_and_chains() -> None:
    gate, doors = GATES["stealth"], DOORS[:1]
    automaton = compile_doors(doors, public=gate.public)
    plain = compile_ruleset(doors, automaton, gate, CAPACITY).full_text()
    shielded = compile_ruleset(
        doors, automaton, gate, CAPACITY, shield=ShieldMark(0xABCDEF10, 0xF, 0x12345670)
    ).full_text()
    changes = [line for line in difflib.ndiff(plain.splitlines(), shielded.splitlines()) if line[0] in "+-"]
    assert [line[2:].strip() for line in changes if line[0] == "-"] == []
    assert [line[2:].strip() for line in changes] == [
        "set shielded {",
        "type ifname",
        "size 256",
        "}",
        "chain counted {",
        "meta priority set 0:0",
        "goto needs",
        "}",
        "chain shielded {",
        "meta priority set meta priority & 0:f",
        "ip saddr @banned4 counter name banned goto counted",
        "ip6 saddr & ffff:ffff:ffff:ffff:: @banned6 counter name banned goto counted",
        "jump entered",
        "goto counted",
        "}",
        "iifname @shielded meta priority 1234:5670 goto counted",
        "iifname @shielded meta priority & ffff:fff0 == abcd:ef10 goto shielded",
    ]


def rules_of(ruleset: Ruleset) -> int:
    """Count the rules that a packet may traverse: all but those of the opening chains."""
    chains = ruleset.body.split("chain ")[1:]
    return sum(len(chain.split("}")[0].splitlines()) for chain in chains if not chain.startswith("opens_"))


def test_rules_per_packet_do_not_grow_with_the_doors() -> None:
    def doors(count: int) -> list[Door]:
        return [Door(f"d{n}", ports(f"{10000 + n}/tcp", f"{20000 + n}/tcp"), ports("22/tcp")) for n in range(count)]

    one, many = compiled(Gate(), doors(1)), compiled(Gate(), doors(2000))
    assert rules_of(one) == rules_of(many)
    assert many.body.count("chain opens_") == 1  # they open the same port for the same time


def test_reload_deletes_old_objects_and_keeps_the_sets() -> None:
    ruleset = compiled(Gate(), DOORS[:1])
    window = next(spec.name for spec in ruleset.sets if spec.name.startswith("first_knock4"))
    existing = [
        Existing("chain", "opens_0"),
        Existing("chain", BASE_CHAINS[0]),
        Existing("map", "delta", 3),
        Existing("set", "open4", 65536),
        Existing("map", window, CAPACITY),
        Existing("map", "first_knock4_00000000", CAPACITY),  # of a removed automaton part
        Existing("set", "ratelimit4", 1024),  # the capacity changed
        Existing("counter", COUNTERS[0]),
    ]
    deleted = [line for line in ruleset.replacing(existing).splitlines() if line.startswith("delete")]
    assert deleted == [
        "delete map inet doorward delta",
        "delete map inet doorward first_knock4_00000000",
        "delete set inet doorward ratelimit4",
        "delete chain inet doorward opens_0",  # after the maps that point to it
    ]


def test_attempts_survive_a_reload_only_with_equal_states() -> None:
    def windows(doors: list[Door]) -> set[str]:
        return {spec.name for spec in compiled(Gate(), doors).sets if spec.name.startswith("first_knock")}

    renamed = [DOORS[0]._replace(name="other", for_ms=1000)]
    assert windows(DOORS[:1]) == windows(renamed)
    assert windows(DOORS[:1]).isdisjoint(windows([DOORS[0]._replace(within_ms=14_000)]))
    assert windows(DOORS[:1]).isdisjoint(windows([DOORS[1]]))


@pytest.mark.parametrize(
    ("memory", "machines", "wanted", "capacity"),
    [(24 * GIB, 1, 1 << 20, 1 << 20), (GIB, 1, 1 << 20, None), (GIB, 4, 1 << 20, None), (1 << 20, 1, 1 << 20, 1024)],
)
def test_full_sets_fit_a_sixteenth_of_the_memory(memory: int, machines: int, wanted: int, capacity: int | None) -> None:
    found = default_capacity(memory, machines, wanted)
    assert found == capacity if capacity else 1024 < found < wanted


def test_a_gate_without_knocks_has_no_automaton() -> None:
    body = compiled(replace(GATES["stealth"]), [DOORS[3]]).body
    assert "knock_packets" not in body
    assert "8080 : goto door" in body


@pytest.mark.parametrize("mode", Mode)
def test_accepted_packets_get_the_mark_and_arriving_marks_are_cleared(mode: Mode) -> None:
    plain = compiled(Gate(mode=mode)).body.splitlines()
    marking = compiled(Gate(mode=mode, accept_mark=Mark(0x1000, 0x3000))).body.splitlines()
    setting = "meta mark set meta mark & 0xffffcfff | 0x1000 accept"
    sets = (
        ("open",) if mode is Mode.STEALTH else ("open", "open_nets")
    )  # as `compiled` has it, with signed knocks or without
    unmarked = [line for line in marking if "@banned" in line and line.endswith("accept")]
    assert len(unmarked) == (2 if mode is Mode.OBSERVE else 0)  # where nothing is dropped, the banned get no mark
    first = "tcp flags & (fin | syn | rst | ack) == syn"
    added = [line.strip() for line in marking if line not in (*plain, *unmarked)]
    # An opening for one connection: those that `compiled` has where it has signed knocks.
    one = [line for line in added if line.startswith((first, "log prefix"))]
    assert len(one) == (0 if mode is Mode.STEALTH else 4)
    assert all(line.endswith(setting) for line in one)
    assert [line for line in added if line not in one] == [
        *(
            f"{ip} saddr . meta l4proto . th dport @{name}{family} {setting}"
            for name in sets
            for ip, family in FAMILIES
        ),
        "meta mark & 0x3000 != 0x0 meta mark set meta mark & 0xffffcfff",
    ]


@pytest.mark.parametrize(("digest", "most_us"), [(Hmac.SHA256, 2), (Hmac.SHA3_512, 8)])  # of the longest packet
def test_fwknop_packets_from_all_sources_take_the_verifier_a_fifth_of_its_time(digest: Hmac, most_us: int) -> None:
    fwknop = Fwknop(stanzas=tuple(FwknopStanza(f"user-{n}", hmac=digest) for n in range(1000)))
    automaton, gate = compile_doors(DOORS), GATES["guard"]
    text = compile_ruleset(DOORS, automaton, gate, CAPACITY, (fwknop.port,), fwknop=fwknop).body
    rates = re.findall(r"\n +limit rate (?:over )?(\d+)/second .* counter name fwknop", text)
    assert len(rates) == 2  # while few come, and the budget of all others
    assert 0.9 < sum(map(int, rates)) * 1000 * most_us / 200_000 <= 1
