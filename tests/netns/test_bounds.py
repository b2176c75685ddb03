"""What happens where a set is full: new entries are refused and counted, and no opening is lost."""

from __future__ import annotations

import re
import select
from collections.abc import Iterator
from ipaddress import IPv4Address, ip_address

import pytest

from doorward.config.schema import Gate, Mode
from doorward.core.automaton import compile_doors
from doorward.kernel.nflog import NflogEvent, event_log
from doorward.lab.topology import Lab
from doorward.model import Door, Packet, Port, Protocol
from doorward.nftables.chains import LOG_GROUP
from doorward.nftables.libnftables import NftFirewall
from doorward.nftables.ruleset import COUNTERS, compile_ruleset
from tests.support.frames import FrameSender

pytestmark = pytest.mark.netns

SIZE = 8
KNOCK = (Port(Protocol.TCP, 7000), Port(Protocol.UDP, 8000), Port(Protocol.TCP, 9000))
DOORS = [Door("ssh", KNOCK, (Port(Protocol.TCP, 22),))]


def source(number: int) -> bytes:
    return (IPv4Address("198.51.100.0") + 10 + number).packed


class Full:
    """A gate in which the maps and sets of the given names hold eight entries."""

    def __init__(self, lab: Lab, small: str) -> None:
        ruleset = compile_ruleset(DOORS, compile_doors(DOORS), Gate(mode=Mode.STEALTH), 4096)
        text = re.sub(
            rf"((?:map|set) (?:{small})\w* {{\s+type [^\n]+\s+size )\d+", rf"\g<1>{SIZE}", ruleset.full_text()
        )
        assert text != ruleset.full_text()
        self._lab = lab
        self._filter = NftFirewall()
        self._log = lab.server.call(event_log, LOG_GROUP)
        self._frames = FrameSender(lab.client, lab.server)
        lab.server.call(self._filter.run, text)

    def send(self, who: int, *ports: Port) -> None:
        for port in ports:
            self._frames.send(Packet(source(who), port, 2 if port.protocol is Protocol.TCP else 0))

    def event(self) -> NflogEvent:
        assert select.select([self._log], [], [], 10)[0]
        events = self._log.read()
        assert events is not None
        assert len(events) == 1
        return events[0]

    def open_to(self) -> set[bytes]:
        return {ip_address(str(element.address)).packed for element in self._lab.server.call(self._filter.elements)}

    def counted(self) -> dict[str, int]:
        counters = self._lab.server.call(self._filter.counters)
        return {name: counters[name] for name in COUNTERS if counters[name] and name != "dropped_stealth"}

    def close(self) -> None:
        self._log.close()
        self._frames.close()


@pytest.fixture
def full(direct_lab: Lab, request: pytest.FixtureRequest) -> Iterator[Full]:
    gate = Full(direct_lab, request.param)
    yield gate
    gate.close()


@pytest.mark.parametrize("full", ["first_knock"], indirect=True)
def test_a_full_window_shortens_the_deadline_and_still_opens(full: Full) -> None:
    for stranger in range(SIZE):
        full.send(stranger, KNOCK[0])
    full.send(100, *KNOCK)
    assert full.event().source.packed == source(100)
    full.send(3, *KNOCK[1:])  # who came before is not disturbed
    assert full.event().source.packed == source(3)
    assert full.open_to() == {source(100), source(3)}
    assert full.counted() == {"knocked": 2, "short_window": 1}


@pytest.mark.parametrize("full", ["first_knock|short_window"], indirect=True)
def test_two_full_windows_refuse_the_newest_source(full: Full) -> None:
    for stranger in range(2 * SIZE):
        full.send(stranger, KNOCK[0])
    full.send(100, *KNOCK)
    full.send(2 * SIZE - 1, *KNOCK[1:])
    assert full.event().source.packed == source(2 * SIZE - 1)
    assert full.open_to() == {source(2 * SIZE - 1)}
    assert full.counted() == {"knocked": 1, "short_window": SIZE, "short_window_full": 1}


@pytest.mark.parametrize("full", ["progress"], indirect=True)
def test_a_full_progress_map_sends_back_to_the_start(full: Full) -> None:
    for stranger in range(SIZE):
        full.send(stranger, *KNOCK[:2])
    full.send(100, *KNOCK)
    full.send(5, KNOCK[0])  # its retransmission or a second try of an earlier one: nothing is lost for others
    assert full.open_to() == set()
    assert full.counted() == {"progress_full": 1}


@pytest.mark.parametrize("full", ["ratelimit"], indirect=True)
def test_full_limiter_matches_no_new_source(full: Full) -> None:
    for stranger in range(SIZE):
        full.send(stranger, Port(Protocol.TCP, 1))
    full.send(100, *KNOCK)
    full.send(2, *KNOCK)
    assert full.event().source.packed == source(2)
    assert full.open_to() == {source(2)}
    assert full.counted() == {"knocked": 1, "ratelimit_full": len(KNOCK)}


@pytest.mark.parametrize("full", ["open"], indirect=True)
def test_a_full_open_set_refuses_a_right_knock_and_says_so(full: Full) -> None:
    for friend in range(SIZE):
        full.send(friend, *KNOCK)
        assert full.event().what == "knock"
    full.send(100, *KNOCK)
    event = full.event()
    assert (event.what, event.source.packed) == ("full", source(100))
    full.send(0, *KNOCK)  # a source that is in can prolong
    assert full.event().what == "knock"
    assert full.open_to() == {source(friend) for friend in range(SIZE)}
    assert full.counted() == {"knocked": SIZE + 1, "open_full": 1}
