"""The firewall contract: one suite for the fake and for nftables in a fresh namespace."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from ipaddress import ip_address, ip_network
from typing import NamedTuple

import pytest

from doorward.config.schema import Gate, Mode
from doorward.core.automaton import compile_doors
from doorward.core.diff import SetChanges
from doorward.errors import HostError
from doorward.kernel.sock_diag import Connection
from doorward.model import DEFAULT_SIGNED_PORT, Door, Element, Port, Protocol
from doorward.nftables import libnftables
from doorward.nftables.fake import FakeFirewall
from doorward.nftables.firewall import Firewall
from doorward.nftables.libnftables import NftFirewall
from doorward.nftables.nft_error import NftError
from doorward.nftables.ruleset import COUNTERS, OPEN_SIZE, TABLE, Existing, Ruleset, compile_ruleset
from tests.support.openings import door, element
from tests.support.processes import as_nobody, open_descriptors, own_namespace

SSH = door("ssh", "22/tcp", "7000/tcp 8000/udp 9000/tcp")
WEB = door("web", "80/tcp 443/tcp", "1001/tcp 1002/tcp", for_ms=60_000)
TWICE = door("twice", "25/tcp", "7000/tcp 7000/tcp 8000/udp")
BY_HAND = door("hand", "5432/tcp")
ONCE = door("once", "22/tcp", "7500/udp", once=True)
A1, B1 = element("192.0.2.7 22/tcp once"), element("2001:db8::7 22/tcp once")
A, B, C = element("192.0.2.7 22/tcp"), element("2001:db8::7 22/tcp"), element("192.0.2.7 53/udp")


def ruleset(*doors: Door, capacity: int = 1024, mode: Mode = Mode.GUARD) -> Ruleset:
    return compile_ruleset(doors, compile_doors(doors), Gate(mode), capacity)


class Clocked(NamedTuple):
    """A firewall, and a function that lets time pass for its elements."""

    filter: Firewall
    let_pass: Callable[[float], None]


def in_memory() -> Iterator[Clocked]:
    now_s = [1000.0]

    def let_pass(seconds: float) -> None:
        now_s[0] += seconds

    yield Clocked(FakeFirewall(lambda: now_s[0]), let_pass)


def in_nftables() -> Iterator[Clocked]:
    with own_namespace():
        filter_ = NftFirewall()

        def let_pass(seconds: float) -> None:
            """Wait until the kernel removes an element with this timeout."""
            filter_.run(f"add set {TABLE} clock {{ type mark; flags timeout; }}")
            filter_.run(f"add element {TABLE} clock {{ 1 timeout {round(seconds * 1000)}ms }}")
            while "expires" in filter_.run(f"list set {TABLE} clock"):
                pass

        yield Clocked(filter_, let_pass)


@pytest.fixture(params=["memory", pytest.param("nftables", marks=pytest.mark.netns("nft"))])
def clocked(request: pytest.FixtureRequest) -> Iterator[Clocked]:
    yield from {"memory": in_memory, "nftables": in_nftables}[request.param]()


@pytest.fixture
def filter_(clocked: Clocked) -> Firewall:
    clocked.filter.load(ruleset(SSH, WEB), {})
    return clocked.filter


def put(entries: Mapping[Element, float]) -> SetChanges:
    return SetChanges(entries, frozenset())


def remove(*entries: Element) -> SetChanges:
    return SetChanges({}, frozenset(entries))


def check_elements(filter_: Firewall, expected: Mapping[Element, float]) -> None:
    """Compare the elements; remaining times may differ by the time that reading takes on a busy machine."""
    assert filter_.elements() == pytest.approx(dict(expected), rel=0.01, abs=1.0)


def test_a_new_gate_has_nothing_open_and_counts_from_nothing(filter_: Firewall) -> None:
    assert filter_.elements() == {}
    assert filter_.counters() == dict.fromkeys(COUNTERS, 0)


def test_put_extend_shorten_remove(filter_: Firewall) -> None:
    transcript: list[tuple[SetChanges, dict[Element, float]]] = [
        (put({A: 30}), {A: 30}),
        (put({B: 60, C: 90}), {A: 30, B: 60, C: 90}),
        (put({A: 300}), {A: 300, B: 60, C: 90}),  # a longer time
        (put({A: 5, B: 60}), {A: 5, B: 60, C: 90}),  # a shorter one
        (remove(B), {A: 5, C: 90}),
        (SetChanges({B: 10}, frozenset({A})), {B: 10, C: 90}),
        (put({}), {B: 10, C: 90}),
        (remove(B, C), {}),
        (put({A: 30}), {A: 30}),  # again
    ]
    for changes, expected in transcript:
        filter_.apply(changes)
        check_elements(filter_, expected)


@pytest.mark.parametrize(
    "text", ["192.0.2.7 1/tcp", "255.255.255.255 65535/udp", ":: 22/tcp", "fe80::1 22/udp", "2001:db8:0:1::ffff 22/tcp"]
)
def test_any_address_and_port_round_trips(filter_: Firewall, text: str) -> None:
    filter_.apply(put({element(text): 30}))
    check_elements(filter_, {element(text): 30})
    filter_.apply(remove(element(text)))
    check_elements(filter_, {})


@pytest.mark.parametrize("seconds", [1.5, 59, 60, 3599, 86_400, 90_061.5, 2 * 86_400, 365 * 86_400])
def test_any_timeout_round_trips(filter_: Firewall, seconds: float) -> None:
    filter_.apply(put({A: seconds}))
    check_elements(filter_, {A: seconds})


def test_elements_expire(clocked: Clocked, filter_: Firewall) -> None:
    filter_.apply(put({A: 0.05, B: 30}))
    clocked.let_pass(0.1)
    check_elements(filter_, {B: 30})
    filter_.apply(put({A: 30}))  # and can be added again
    check_elements(filter_, {A: 30, B: 30})


def test_remaining_time_decreases(clocked: Clocked, filter_: Firewall) -> None:
    filter_.apply(put({A: 30}))
    clocked.let_pass(0.1)
    assert 28 < filter_.elements()[A] <= 29.9


def test_all_or_nothing(filter_: Firewall) -> None:
    filter_.apply(put({A: 30, C: 30}))
    for changes in (
        remove(B),
        remove(A, B),
        SetChanges({A: 300, B: 300}, frozenset({element("192.0.2.9 22/tcp")})),
    ):
        with pytest.raises(HostError):
            filter_.apply(changes)
        check_elements(filter_, {A: 30, C: 30})


def entries(family: str, count: int) -> dict[Element, float]:
    base = ip_address({"4": "10.0.0.0", "6": "2001:db8::"}[family])
    return {Element(base + number, Port(Protocol.TCP, 22)): 600.0 for number in range(count)}


def test_full_set_rejects_new_elements_and_keeps_the_others(clocked: Clocked, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in "ruleset", "fake":
        monkeypatch.setattr(f"doorward.nftables.{module}.OPEN_SIZE", 100)
    filter_ = clocked.filter
    filter_.load(ruleset(SSH), {})
    filter_.apply(put(entries("4", 99)))
    with pytest.raises(HostError):
        filter_.apply(put({A: 30, C: 30}))
    check_elements(filter_, entries("4", 99))
    filter_.apply(put({A: 30}))
    with pytest.raises(HostError):
        filter_.apply(put({C: 30}))
    filter_.apply(put({A: 60}))  # existing elements can still be extended
    filter_.apply(put(entries("6", 100)))  # the other family has its own limit
    check_elements(filter_, entries("4", 99) | {A: 60} | entries("6", 100))


def test_load_restores_elements(clocked: Clocked) -> None:
    clocked.filter.load(ruleset(SSH), {A: 30, B: 600})
    check_elements(clocked.filter, {A: 30, B: 600})


def test_elements_for_one_connection_are_apart(clocked: Clocked) -> None:
    gate = ruleset(SSH, ONCE)
    clocked.filter.load(gate, {})
    clocked.filter.apply(put({A: 30, A1: 60, B1: 60}))
    check_elements(clocked.filter, {A: 30, A1: 60, B1: 60})
    assert clocked.filter.present([A, A1, B, B1, C]) == {A, A1, B1}
    clocked.filter.apply(SetChanges({}, frozenset({A1})))
    assert clocked.filter.present([A, A1]) == {A}
    clocked.filter.load(gate, {})
    check_elements(clocked.filter, {A: 30, B1: 60})


def test_restoring_the_table_restores_no_element_for_one_connection(real: NftFirewall) -> None:
    gate = ruleset(SSH, ONCE)
    real.load(gate, {})
    real.apply(put({A: 30, A1: 60}))
    real.restore(gate.for_boot(), {B: 30}, [])
    check_elements(real, {A: 30, B: 30})
    real.unload()
    assert real.present([A, A1]) == frozenset()


def test_load_keeps_open_elements(filter_: Firewall) -> None:
    filter_.apply(put({A: 30, B: 60}))
    for again in ruleset(SSH, WEB), ruleset(WEB), ruleset(TWICE, BY_HAND), ruleset(), ruleset(SSH, mode=Mode.STEALTH):
        filter_.load(again, {})
        check_elements(filter_, {A: 30, B: 60})
    filter_.load(ruleset(SSH), {B: 300, C: 30})  # restored elements are added, and take precedence
    check_elements(filter_, {A: 30, B: 300, C: 30})


@pytest.mark.parametrize("for_ms", [1, 500, 30_000, 3_600_500, 27 * 3_600_000, 2 * 86_400_000, 365 * 86_400_000])
def test_any_valid_duration_can_be_opened(clocked: Clocked, for_ms: int) -> None:
    clocked.filter.load(ruleset(SSH._replace(for_ms=for_ms)), {})
    assert clocked.filter.elements() == {}


# What only nftables has


@pytest.fixture
def real() -> Iterator[NftFirewall]:
    with own_namespace():
        yield NftFirewall()


@pytest.mark.netns("nft")
def test_networks_and_addresses_coexist(real: NftFirewall) -> None:
    real.load(compile_ruleset([SSH], compile_doors([SSH]), Gate(Mode.GUARD), 1024, (DEFAULT_SIGNED_PORT,)), {})
    office, home = (Element(ip_network(text), A.port) for text in ("192.0.2.0/25", "2001:db8::/57"))
    transcript: list[tuple[SetChanges, dict[Element, float]]] = [
        (put({office: 30, A: 30}), {office: 30, A: 30}),
        (put({office: 300, home: 60}), {office: 300, home: 60, A: 30}),
        (remove(office), {home: 60, A: 30}),
        (SetChanges({office: 10}, frozenset({home, A})), {office: 10}),
    ]
    for changes, expected in transcript:
        real.apply(changes)
        check_elements(real, expected)


@pytest.mark.netns("nft")
def test_many_elements_are_put_and_removed_at_once(real: NftFirewall) -> None:
    real.load(ruleset(SSH), {})
    crowd = entries("4", 20_000) | entries("6", 1001)
    real.apply(put(crowd))
    assert real.elements().keys() == crowd.keys()
    with pytest.raises(NftError, match="No such file"):
        real.apply(remove(*crowd, C))
    assert real.elements().keys() == crowd.keys()
    real.apply(remove(*crowd))
    check_elements(real, {})


def text_of(real: NftFirewall) -> dict[str, str]:
    """Return the kernel's text of each object, regardless of the order of creation."""
    return {
        f"{thing.kind} {thing.name}": real.run(f"list {thing.kind} {TABLE} {thing.name}") for thing in real.existing()
    }


STEPS = {
    "the same": (ruleset(SSH, WEB), ruleset(SSH, WEB)),
    "other doors": (ruleset(SSH, WEB), ruleset(TWICE, WEB)),
    "a door more": (ruleset(SSH), ruleset(SSH, WEB)),
    "a door less": (ruleset(SSH, WEB, TWICE), ruleset(WEB)),
    "no door": (ruleset(SSH, WEB), ruleset()),
    "the first door": (ruleset(), ruleset(SSH)),
    "no knock any more": (ruleset(SSH), ruleset(BY_HAND)),
    "hide everything": (ruleset(SSH), ruleset(SSH, mode=Mode.STEALTH)),
    "hide nothing": (ruleset(SSH, mode=Mode.STEALTH), ruleset(SSH, mode=Mode.OBSERVE)),
    "a larger capacity": (ruleset(SSH), ruleset(SSH, capacity=4096)),
    "a smaller capacity": (ruleset(SSH, capacity=4096), ruleset(SSH)),
}


@pytest.mark.netns("nft")
@pytest.mark.parametrize(("before", "after"), STEPS.values(), ids=STEPS)
def test_reload_equals_a_fresh_load(real: NftFirewall, before: Ruleset, after: Ruleset) -> None:
    real.load(after, {})
    fresh = sorted(real.existing(), key=str), text_of(real)
    real.unload()
    real.load(before, {A: 30, B: 60})
    real.load(after, {})
    check_elements(real, {A: 30, B: 60})
    real.apply(remove(A, B))
    assert (sorted(real.existing(), key=str), text_of(real)) == fresh


@pytest.mark.netns("nft")
def test_kernel_sets_have_the_capacity(real: NftFirewall) -> None:
    for capacity in 1024, 4096, 2048:
        real.load(ruleset(SSH, capacity=capacity), {})
        names = re.compile(r"(ratelimit|first_knock|progress)[46]")
        sizes = {thing.size for thing in real.existing() if names.match(thing.name)}
        assert sizes == {capacity}


@pytest.mark.netns("nft")
def test_counters_survive_a_reload(real: NftFirewall) -> None:
    real.run(f"add table {TABLE}\nadd counter {TABLE} dropped_closed {{ packets 7 bytes 99; }}")
    for again in ruleset(SSH), ruleset(WEB):
        real.load(again, {})
        assert real.counters() == dict.fromkeys(COUNTERS, 0) | {"dropped_closed": 7}


@pytest.mark.netns("nft")
def test_other_tables_are_untouched(real: NftFirewall) -> None:
    real.run(
        "table ip doorward { chain input { type filter hook input priority 0; policy accept; }; }\n"
        "table inet filter { set open4 { type ipv4_addr; elements = { 192.0.2.1 }; }; counter hidden { }; }\n"
        "table inet doorward2 { }\n"
    )
    foreign = real.run("list ruleset")
    assert real.existing() == []
    assert real.counters() == dict.fromkeys(COUNTERS, 0)
    real.load(ruleset(SSH, WEB), {A: 30})
    real.load(ruleset(TWICE), {})
    real.apply(remove(A))
    assert foreign in real.run("list ruleset")
    real.unload()
    assert real.run("list ruleset") == foreign
    assert real.existing() == []
    real.unload()  # a missing table is not an error


@pytest.mark.netns("nft")
def test_rejected_ruleset_changes_nothing(real: NftFirewall) -> None:
    real.load(ruleset(SSH), {A: 30})
    before = text_of(real).keys()
    good = ruleset(WEB)
    broken = Ruleset(good.generation, good.sets, good.body.replace("goto door", "goto nowhere"), good.states)
    with pytest.raises(NftError, match="nftables rejected the change"):
        real.load(broken, {B: 30})
    check_elements(real, {A: 30})
    assert text_of(real).keys() == before


@pytest.mark.netns("nft")
def test_output_of_compile_loads_the_same_gate(real: NftFirewall) -> None:
    real.load(ruleset(SSH, WEB), {})
    loaded = text_of(real)
    for _ in range(2):  # it also replaces itself
        real.run(ruleset(SSH, WEB).full_text())
        assert text_of(real) == loaded


@pytest.mark.netns("nft")
def test_preexisting_connections_are_replaced(real: NftFirewall) -> None:
    here, there, here6, there6 = map(ip_address, ("192.0.2.1", "192.0.2.7", "2001:db8::1", "2001:db8::7"))
    first = [Connection(there, 50_000, here, 22), Connection(there, 50_001, here, 22)]
    real.load(ruleset(SSH), {}, first)
    listed = real.run(f"list set {TABLE} preexisting4")
    assert "192.0.2.7 . 50000 . 192.0.2.1 . 22" in listed
    assert "192.0.2.7 . 50001 . 192.0.2.1 . 22" in listed
    real.load(ruleset(SSH), {}, [Connection(there6, 50_002, here6, 22)])
    assert "elements" not in real.run(f"list set {TABLE} preexisting4")
    assert "2001:db8::7 . 50002 . 2001:db8::1 . 22" in real.run(f"list set {TABLE} preexisting6")


@pytest.mark.netns("nft")
def test_names_and_sizes_of_what_is_loaded(real: NftFirewall) -> None:
    assert real.existing() == []
    real.load(ruleset(SSH), {})
    existing = real.existing()
    assert Existing("chain", "prerouting") in existing
    assert Existing("set", "open4", OPEN_SIZE) in existing
    assert {thing.name for thing in existing if thing.kind == "counter"} == set(COUNTERS)


@pytest.mark.netns("nft")
def test_nothing_leaks(real: NftFirewall) -> None:
    real.load(ruleset(SSH), {})
    real.apply(put({A: 30}))  # the socket for elements stays open
    before = open_descriptors()
    for _ in range(20):
        real.apply(put({A: 30}))
        real.elements()
        real.counters()
        with pytest.raises(NftError):
            real.apply(remove(B))
    assert open_descriptors() == before


@pytest.mark.netns("nft")
def test_missing_capability_is_named(real: NftFirewall) -> None:
    real.load(ruleset(SSH), {A: 30})
    refused: list[Callable[[], object]] = [
        lambda: real.load(ruleset(SSH), {}),
        lambda: real.apply(put({B: 30})),
        real.elements,
        real.existing,
        real.counters,
        real.unload,
    ]
    for call in refused:
        with pytest.raises(HostError, match="CAP_NET_ADMIN"):
            as_nobody(call)
    check_elements(real, {A: 30})


def test_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libnftables, "_LIBRARY", "libnftables-that-is-missing.so.1")
    libnftables._library.cache_clear()
    try:
        with pytest.raises(HostError, match=r"libnftables-that-is-missing.so.1 is missing; install nftables 1\.0\.6"):
            NftFirewall().elements()
    finally:
        libnftables._library.cache_clear()
