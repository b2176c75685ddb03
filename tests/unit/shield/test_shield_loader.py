"""The shield's loader with a program that records what is noted in it."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Collection, Iterator
from typing import Any, cast

import pytest

from doorward.config.schema import Gate, Mode, Shield
from doorward.core.automaton import compile_doors
from doorward.errors import HostError
from doorward.kernel import netlink
from doorward.model import Door, Port
from doorward.shield import loader
from doorward.shield.host_limits import is_vrf
from doorward.shield.libbpf import Place
from doorward.shield.tables import ShieldTables, compile_tables

DOOR = Door("ssh", (Port.parse("7001/tcp"), Port.parse("7002/tcp")), (Port.parse("22/tcp"),))
ALL, OPENINGS = range(0), 1000


class Program:
    """What the loader calls of ShieldProgram."""

    asks_conntrack = False

    def __init__(self, tables: ShieldTables, *_: object) -> None:
        self.tables = tables
        self.expected: list[Collection[int]] = []
        self.drops, self.is_closed = True, False

    def expect_answers(self, ports: Collection[int] = ALL) -> None:
        self.expected.append(ports)

    def set_local(self, *_: object, **__: object) -> None:
        pass

    def renew(self, *_: object, drops: bool, **__: object) -> None:
        self.drops = drops

    def close(self) -> None:
        self.is_closed = True

    def program(self, place: Place) -> int:
        if place is Place.XDP and not self.tables.wants_xdp:
            raise HostError("shield-not-loaded", "shield_xdp: No such file or directory")
        return place

    def counters(self) -> dict[str, int]:
        return {}

    def map(self, name: str) -> int:
        assert name == "openings"
        return OPENINGS

    set_bans = set_local


class Attached:
    """A program that sees every packet, or with `may_be_skipped` not surely; `is_refused`: not at XDP."""

    is_skipped = is_refused = False

    def __init__(self, program: int, *_: object) -> None:
        if self.is_refused and program == Place.XDP:
            raise HostError("shield-not-attached", "its driver runs no XDP programs")

    def may_be_skipped(self) -> bool:
        return self.is_skipped

    def close(self) -> None:
        pass

    replace = __init__


@pytest.fixture
def loading(monkeypatch: pytest.MonkeyPatch) -> Iterator[loader.ShieldLoader]:
    for name, value in (
        ("ShieldProgram", Program),
        ("attach", Attached),
        ("obstacle", lambda: ""),
        ("udp_ports", lambda: {53}),
        ("is_forwarding", lambda _: False),
    ):
        monkeypatch.setattr(loader, name, value)
    loading = loader.ShieldLoader(1 << 10)
    yield loading
    loading.end()
    loading.monitor.close()


def form(shield: Shield = Shield.ON, interface: str = "none0") -> int:
    """Return a file with tables."""
    descriptor = os.memfd_create("form")
    gate = Gate(mode=Mode.STEALTH, interfaces=(interface,), shield=shield)
    made = compile_tables(gate, compile_doors([DOOR]), [DOOR], [], b"key")
    os.write(descriptor, made.pack())
    return descriptor


def expected(loading: loader.ShieldLoader, request: bytes) -> list[Collection[int]]:
    """Send a request; return the ports that the program is to treat as in use since."""
    before = [] if loading._program is None else [*cast(Any, loading._program).expected]
    loading.answer(request, [form()] if request == loader.LOAD else [])
    return cast(Any, loading._program).expected[len(before) :]  # type: ignore[no-any-return]


@pytest.mark.parametrize(("kind", "is_one"), [("vrf", True), ("bridge", False), ("vrf2", False)])
def test_vrf_is_known_by_its_kind(kind: str, is_one: bool) -> None:
    info = netlink.attribute(1, kind.encode() + b"\0")
    body = bytes(16) + netlink.attribute(3, b"vrf\0") + netlink.attribute(18, info)  # its name may be any
    assert is_vrf(netlink.NetlinkMessage(16, memoryview(body))) is is_one
    assert not is_vrf(netlink.NetlinkMessage(16, memoryview(body[:24])))


@pytest.mark.parametrize(
    ("asks", "version", "ports"), [(False, 0, [{53}]), (False, 4, [ALL]), (False, 6, [ALL]), (True, 4, [])]
)
def test_host_that_forwards_leaves_udp_to_the_gate(
    loading: loader.ShieldLoader,
    monkeypatch: pytest.MonkeyPatch,
    asks: bool,
    version: int,
    ports: list[Collection[int]],
) -> None:
    """A host behind it may receive for hours and send nothing; on others, only ports with a socket stay in use.

    Conntrack knows of such flows, if it can be asked.
    """
    monkeypatch.setattr(Program, "asks_conntrack", asks)
    monkeypatch.setattr(loader, "is_forwarding", lambda asked: asked == version)
    assert expected(loading, loader.LOAD) == [ALL, *ports]
    assert expected(loading, loader.RENEW) == ports


def test_filters_before_it_leave_udp_to_the_gate(loading: loader.ShieldLoader, monkeypatch: pytest.MonkeyPatch) -> None:
    """They may keep the program from seeing what this host sends."""
    assert expected(loading, loader.LOAD) == [ALL, {53}]
    monkeypatch.setattr(Attached, "is_skipped", True)
    assert expected(loading, loader.RENEW) == [{53}, ALL]


def test_it_drops_nothing_until_the_next_tables_or_renewal(loading: loader.ShieldLoader) -> None:
    for request, drops in ((loader.LOAD, True), (loader.PASS, False), (loader.PASS, False), (loader.RENEW, True)):
        expected(loading, request)
        assert cast(Any, loading._program).drops == drops
    expected(loading, loader.PASS)
    expected(loading, loader.LOAD)
    assert cast(Any, loading._program).drops


def test_program_that_cannot_be_filled_is_freed(loading: loader.ShieldLoader, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each renewal tries again, and one has up to 64 MB."""
    made = []

    def fails(program: Program, *_: object) -> None:
        made.append(program)
        raise HostError("shield-not-loaded", "local: no room")

    monkeypatch.setattr(Program, "set_bans", fails)
    loading.answer(loader.LOAD, [form()])
    loading.answer(loader.RENEW, [])
    assert [program.is_closed for program in made] == [True, True]
    assert loading.trouble == "local: no room"


def test_form_is_read_in_its_size(loading: loader.ShieldLoader, monkeypatch: pytest.MonkeyPatch) -> None:
    """A buffer for the largest would be more memory than a small host may have."""
    real, sizes = os.pread, list[int]()

    def recorded(file: int, size: int, at: int) -> bytes:
        sizes.append(size)
        return real(file, size, at)

    monkeypatch.setattr(os, "pread", recorded)
    expected(loading, loader.LOAD)
    assert max(sizes) < 100_000
    descriptor = os.memfd_create("form")
    os.truncate(descriptor, (256 << 20) + 1)
    loading.answer(loader.BANS, [descriptor])
    assert "more than" in loading.trouble
    assert len(sizes) == 1


def test_invalid_form_leaves_no_tables(loading: loader.ShieldLoader) -> None:
    """The next renewal would load those before, whose token the gate may no longer accept."""
    expected(loading, loader.LOAD)
    loading.answer(loader.LOAD, [os.memfd_create("form")])
    loading.answer(loader.RENEW, [])
    assert loading._program is None
    assert "a form of 0 bytes" in loading.trouble


@pytest.fixture
def at_lan0(loading: loader.ShieldLoader, monkeypatch: pytest.MonkeyPatch) -> Callable[[Shield], tuple[object, ...]]:
    """Load a shield for the interface lan0; return where its report has it."""
    for name, value in (("can_attach", lambda _: True), ("has_vlans", lambda _: False)):
        monkeypatch.setattr(loader, name, value)
    monkeypatch.setattr(socket, "if_nameindex", lambda: [(7, "lan0")])

    def load(shield: Shield) -> tuple[object, ...]:
        loading.answer(loader.LOAD, [form(shield, "lan0")])
        report = loading.report()
        return report.interfaces, report.at_xdp, report.no_xdp, report.trouble

    return load


ON = ("lan0",)


def test_shield_is_at_xdp_only_while_that_is_wanted(at_lan0: Callable[[Shield], tuple[object, ...]]) -> None:
    assert at_lan0(Shield.ON) == (ON, (), "", "")
    assert at_lan0(Shield.XDP) == (ON, ON, "", "")
    assert at_lan0(Shield.AUTO) == (ON, (), "", "")


def test_vlans_keep_it_from_xdp(
    at_lan0: Callable[[Shield], tuple[object, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where they appear as well: a driver may remove their tags first."""
    assert at_lan0(Shield.XDP) == (ON, ON, "", "")
    monkeypatch.setattr(loader, "has_vlans", lambda _: True)
    assert at_lan0(Shield.XDP) == (ON, (), "lan0 has VLANs", "")
    monkeypatch.setattr(loader, "has_vlans", lambda _: False)
    assert at_lan0(Shield.XDP) == (ON, ON, "", "")


def test_filters_before_it_at_ingress_keep_it_from_xdp(
    at_lan0: Callable[[Shield], tuple[object, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would drop a knock but for its last packet, which the program at ingress may then not see."""
    for is_skipped in (False, True, False):
        monkeypatch.setattr(Attached, "is_skipped", is_skipped)
        interfaces, at_xdp, no_xdp, _ = at_lan0(Shield.XDP)
        assert (interfaces, at_xdp) == (ON, () if is_skipped else ON)
        assert ("another program" in str(no_xdp)) == is_skipped


def test_driver_without_xdp_leaves_it_at_tcx(
    at_lan0: Callable[[Shield], tuple[object, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Attached, "is_refused", True)
    assert at_lan0(Shield.XDP) == (ON, (), "its driver runs no XDP programs", "")
    assert at_lan0(Shield.ON) == (ON, (), "", "")


def test_map_of_openings_is_sent_once(loading: loader.ShieldLoader) -> None:
    """A program that replaces another has its map; one after an end has a new one."""
    for request, sent in (
        (loader.LOAD, [OPENINGS]),
        (loader.RENEW, []),
        (loader.LOAD, []),
        (loader.END, []),
        (loader.LOAD, [OPENINGS]),
    ):
        loading.answer(request, [form()] if request == loader.LOAD else [])
        assert loading.new_openings() == sent
