"""Events of openings and their effects, as tables. Times: every event happens at NOW_S."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ipaddress import ip_address

import pytest

from doorward.core.opening_table import OpeningTable
from doorward.core.openings import (
    Announce,
    Effect,
    LogLine,
    RecordCloses,
    RecordEnd,
    RecordOpening,
    RecordRun,
    RunHook,
    SetElements,
    log_fields,
    new_opening,
    on_ban,
    on_banned_knock,
    on_close,
    on_ended,
    on_expire,
    on_knock,
    on_lost,
    on_open,
    on_reconcile,
    on_signed_close,
    on_unfinished,
    on_use,
    signed_opening,
)
from doorward.core.signed_rules import CloseDates, DatedKnock
from doorward.model import Door, Opening, Share
from tests.support.openings import door, element, opening

NOW_S = 1000.0
HOME = ip_address("192.0.2.7")
SSH, WEB = door("ssh", "22/tcp", for_ms=30_000), door("web", "22/tcp 80/tcp", for_ms=600_000)
WAKE = Door("wake", (), (), on_open=("/bin/true",))  # only runs a command
E22, E80 = element("192.0.2.7 22/tcp"), element("192.0.2.7 80/tcp")


def at(since_s: float, until_s: float, name: str = "ssh", opened: str = "22/tcp", by: str = "knock") -> Opening:
    return opening(name, "192.0.2.7", opened, since_s, until_s, by)


FRESH = at(NOW_S, NOW_S + 60, by="key laptop")
RECENT = at(900, 1010)  # open since 900, and until 1010
LONGER = RECENT._replace(
    until_s=NOW_S + 60,
    shares=(Share("key laptop", NOW_S + 60, name="key laptop"), Share("knock", 1010, name="knock")),
)
RUN = at(NOW_S, NOW_S, "wake", "")
KEY = "ssh", HOME
GONE = {E22: 0.0}

ADA, BOB = (DatedKnock(by, "ssh", HOME, 100) for by in ("ada's hash", "bob's hash"))
BY_ADA = signed_opening(SSH, ADA, 60.0, "key ada", NOW_S)
BY_BOB = signed_opening(SSH, BOB, 30.0, "key bob", NOW_S)
BY_BOTH = BY_ADA._replace(shares=BY_ADA.shares + BY_BOB.shares)
ONLY_BOB = BY_BOTH._replace(until_s=NOW_S + 30, shares=BY_BOB.shares)
ONLY_ADA = BY_BOTH._replace(shares=BY_ADA.shares)
ADA_CLOSED = CloseDates([("ada's hash", "ssh", "192.0.2.7", 100)])


ONCE = door("ssh", "22/tcp", once=True)
PAIR = door("ssh", "22/tcp 80/tcp", once=True)
E22_ONCE, E80_ONCE = E22._replace(once=True), E80._replace(once=True)
BY_ONE = new_opening(ONCE, HOME, 30.0, "knock", NOW_S)
BY_PAIR = new_opening(PAIR, HOME, 30.0, "knock", NOW_S)
ADA_ONCE = signed_opening(SSH, ADA, 20.0, "key ada", NOW_S, once=True)
BOTH_ONCE = ADA_ONCE._replace(until_s=NOW_S + 30, shares=ADA_ONCE.shares + BY_BOB.shares)
USED = "use from port 4711"


def released(left: Opening, by: str, for_s: float, holder: str) -> list[Effect]:
    fields = {**log_fields(left, for_s, by), "still": holder}
    return [
        RecordOpening(KEY, left, BY_BOTH),
        SetElements(KEY, (E22,), GONE),
        LogLine(KEY, "released", fields),
    ]


# An event, the openings before it, its effects, and the openings after it.
Case = tuple[Callable[[OpeningTable], list[Effect]], Sequence[Opening], list[Effect], Sequence[Opening]]


def opened(new: Opening, by: str, for_s: float) -> list[Effect]:
    return [
        RecordOpening(new.key, new, None),
        LogLine(new.key, "opened", log_fields(new, for_s, by)),
        Announce(new.key, "opened", new, by),
        RunHook(new.key, "open"),
    ]


def ended(old: Opening, by: str, at_s: float = NOW_S) -> list[Effect]:
    end = RecordEnd(old.key, old, at_s, by)
    return [
        end,
        LogLine(old.key, "closed", log_fields(old, at_s - old.since_s, by)),
        Announce(old.key, "closed", old, by),
        RunHook(old.key, "close", end),
    ]


CASES: dict[str, Case] = {
    "a signed close ends its signer's opening": (
        lambda table: on_signed_close(table, ADA, "key ada", NOW_S),
        [BY_ADA],
        [SetElements(KEY, (E22,), GONE), *ended(BY_ADA, "key ada")],
        [],
    ),
    "a signed close that is dated before the opening": (
        lambda table: on_signed_close(table, ADA._replace(time_ms=99), "key ada", NOW_S),
        [BY_ADA],
        [],
        [BY_ADA],
    ),
    "a signed close by another key, for another address, of another door": (
        lambda table: [
            *on_signed_close(table, BOB, "key bob", NOW_S),
            *on_signed_close(table, ADA._replace(source=ip_address("192.0.2.8")), "key ada", NOW_S),
            *on_signed_close(table, ADA._replace(door="web"), "key ada", NOW_S),
        ],
        [BY_ADA],
        [],
        [BY_ADA],
    ),
    "a signed close ends no opening by hand or sequence": (
        lambda table: on_signed_close(table, ADA, "key ada", NOW_S),
        [RECENT],
        [],
        [RECENT],
    ),
    "the longer of two holders closes: the other keeps its time": (
        lambda table: on_signed_close(table, ADA, "key ada", NOW_S),
        [BY_BOTH],
        released(ONLY_BOB, "key ada", 30.0, "key bob"),
        [ONLY_BOB],
    ),
    "the shorter of two holders closes: the end stays": (
        lambda table: on_signed_close(table, BOB, "key bob", NOW_S),
        [BY_BOTH],
        released(ONLY_ADA, "key bob", 60.0, "key ada"),
        [ONLY_ADA],
    ),
    "a holder whose time is over keeps nothing open": (
        lambda table: on_signed_close(table, ADA, "key ada", NOW_S + 30),
        [BY_BOTH],
        [SetElements(KEY, (E22,), GONE), *ended(BY_BOTH, "key ada", NOW_S + 30)],
        [],
    ),
    "a close by hand ends what every holder has, and is remembered for the signers": (
        lambda table: on_close(table, KEY, "hand", NOW_S),
        [BY_BOTH],
        [RecordCloses(KEY, BY_BOTH), SetElements(KEY, (E22,), GONE), *ended(BY_BOTH, "hand")],
        [],
    ),
    "a close that was claimed before a kill is finished": (
        lambda table: on_unfinished(table, ADA_CLOSED, NOW_S),
        [BY_BOTH, at(900, 1010, "web", "22/tcp 80/tcp")],
        released(ONLY_BOB, "key ada", 30.0, "key bob"),
        [at(900, 1010, "web", "22/tcp 80/tcp"), ONLY_BOB],
    ),
    "a signed knock opens": (
        lambda table: on_open(table, SSH, FRESH, NOW_S),
        [],
        [*opened(FRESH, "key laptop", 60.0), SetElements(KEY, (E22,), {}, opens=True)],
        [FRESH],
    ),
    "a signed knock extends: no hook, and the first holder stays": (
        lambda table: on_open(table, SSH, FRESH, NOW_S),
        [RECENT],
        [
            RecordOpening(KEY, LONGER, RECENT),
            LogLine(KEY, "prolonged", log_fields(LONGER, 60.0, "key laptop")),
            Announce(KEY, "opened", LONGER._replace(shares=LONGER.shares[:1]), "key laptop"),
            SetElements(KEY, (E22,), {}, opens=True),
        ],
        [LONGER],
    ),
    "another gate opened: not announced back": (
        lambda table: on_open(table, SSH, FRESH, NOW_S, is_learnt=True),
        [],
        [
            RecordOpening(KEY, FRESH, None),
            LogLine(KEY, "opened", log_fields(FRESH, 60.0, "key laptop")),
            RunHook(KEY, "open"),
            SetElements(KEY, (E22,), {}, opens=True),
        ],
        [FRESH],
    ),
    "a door without ports runs its command": (
        lambda table: on_open(table, WAKE, new_opening(WAKE, HOME, 30.0, "hand", NOW_S), NOW_S),
        [],
        [
            RecordRun(RUN.key, RUN._replace(by="hand")),
            LogLine(RUN.key, "ran", {"door": "wake", "address": "192.0.2.7", "by": "hand"}),
            RunHook(RUN.key, "open"),
        ],
        [],
    ),
    "a knock completes three doors: the kernel has the longest end": (
        lambda table: on_knock(table, [SSH, WEB, WAKE], HOME, NOW_S),
        [],
        [
            *opened(at(NOW_S, NOW_S + 30), "knock", 30.0),
            *opened(at(NOW_S, NOW_S + 600, "web", "22/tcp 80/tcp"), "knock", 600.0),
            RecordRun(RUN.key, RUN),
            LogLine(RUN.key, "ran", {"door": "wake", "address": "192.0.2.7", "by": "knock"}),
            RunHook(RUN.key, "open"),
            SetElements(None, (E22, E80), {E22: 600.0, E80: 600.0}),
        ],
        [at(NOW_S, NOW_S + 30), at(NOW_S, NOW_S + 600, "web", "22/tcp 80/tcp")],
    ),
    "a knock on a ruleset that was replaced: the sets are read": (
        lambda table: on_knock(table, [SSH], HOME, NOW_S, is_current=False),
        [],
        [*opened(at(NOW_S, NOW_S + 30), "knock", 30.0), SetElements(None, (E22,), None)],
        [at(NOW_S, NOW_S + 30)],
    ),
    "a knock by a banned source: what the kernel opened is removed": (
        lambda _: on_banned_knock([SSH, WEB], HOME),
        [],
        [SetElements(None, (E22, E22, E80), None)],
        [],
    ),
    "an operator closes": (
        lambda table: on_close(table, KEY, "hand", NOW_S),
        [RECENT],
        [SetElements(KEY, (E22,), GONE), *ended(RECENT, "hand")],
        [],
    ),
    "another gate closes what is not open here": (lambda table: on_close(table, KEY, "fleet", NOW_S), [], [], []),
    "a ban ends openings, and rolls none back": (
        lambda table: on_ban(table, [RECENT], NOW_S),
        [RECENT],
        [SetElements(None, (E22,), GONE), *ended(RECENT, "ban")],
        [],
    ),
    "the time is over: the kernel has removed the element": (
        lambda table: on_expire(table, 1010.0),
        [RECENT, at(900, 1011, "web")],
        ended(RECENT, "time", 1010.0),
        [at(900, 1011, "web")],
    ),
    "the time was over while no daemon ran": (lambda _: on_ended([RECENT]), [], ended(RECENT, "time", 1010.0), []),
    "a repair leaves an opening out": (
        lambda table: on_lost(table, [RECENT], {E22: 9.0}, NOW_S, [E80]),
        [RECENT],
        [SetElements(None, (E22, E80), {E22: 9.0}), *ended(RECENT, "lost")],
        [],
    ),
    "the kernel lost an opening": (
        lambda table: on_reconcile(table, {}, [SSH], NOW_S),
        [RECENT],
        ended(RECENT, "lost"),
        [],
    ),
    "the kernel has an opening that was not logged": (
        lambda table: on_reconcile(table, {E22: 20.0}, [SSH], NOW_S),
        [],
        opened(at(NOW_S, NOW_S + 20), "knock", 20.0),
        [at(NOW_S, NOW_S + 20)],
    ),
    "an operator opens for one connection": (
        lambda table: on_open(table, ONCE, new_opening(ONCE, HOME, 30.0, "hand", NOW_S), NOW_S),
        [],
        [
            *opened(new_opening(ONCE, HOME, 30.0, "hand", NOW_S), "hand", 30.0),
            SetElements(KEY, (E22_ONCE,), {}, opens=True),
        ],
        [new_opening(ONCE, HOME, 30.0, "hand", NOW_S)],
    ),
    "a sequence opens for one connection: the end that the kernel has set is the one": (
        lambda table: on_knock(table, [ONCE], HOME, NOW_S),
        [],
        [*opened(BY_ONE, "knock", 30.0), SetElements(None, (), {})],
        [BY_ONE],
    ),
    "its connection comes": (
        lambda table: on_use(table, [BY_ONE], {E22}, USED, NOW_S),
        [BY_ONE],
        [SetElements(None, (), {}), *ended(BY_ONE, USED)],
        [],
    ),
    "its connection comes: the other port closes": (
        lambda table: on_use(table, [BY_PAIR], {E80_ONCE, E22}, USED, NOW_S),
        [BY_PAIR],
        [SetElements(None, (E80_ONCE,), {E80_ONCE: 0.0}), *ended(BY_PAIR, USED)],
        [],
    ),
    "its connection comes: who holds the door open for more keeps it": (
        lambda table: on_use(table, [BOTH_ONCE], (), USED, NOW_S),
        [BOTH_ONCE],
        [
            RecordOpening(KEY, ONLY_BOB._replace(by="key ada"), BOTH_ONCE),
            SetElements(None, (), {}),
            LogLine(KEY, "released", {**log_fields(ONLY_BOB._replace(by="key ada"), 30.0, USED), "still": "key bob"}),
        ],
        [ONLY_BOB._replace(by="key ada")],
    ),
    "the kernel no longer has an opening for one connection": (
        lambda table: on_reconcile(table, {E22: 9.0}, [], NOW_S),
        [BY_ONE],
        [SetElements(None, (), {}), *ended(BY_ONE, "use")],
        [],
    ),
    "the kernel has an opening for one connection that was not logged": (
        lambda table: on_reconcile(table, {E22_ONCE: 30.0}, [SSH._replace(name="first"), ONCE], NOW_S),
        [],
        opened(BY_ONE, "knock", 30.0),
        [BY_ONE],
    ),
    "kernel and table agree on an opening for one connection": (
        lambda table: on_reconcile(table, {E22_ONCE: 30.0}, [ONCE], NOW_S),
        [BY_ONE],
        [],
        [BY_ONE],
    ),
    "kernel and table agree": (lambda table: on_reconcile(table, {E22: 10.0}, [SSH], NOW_S), [RECENT], [], [RECENT]),
}


@pytest.mark.parametrize(("event", "before", "effects", "after"), CASES.values(), ids=CASES)
def test_event_and_effects(
    event: Callable[[OpeningTable], list[Effect]],
    before: Sequence[Opening],
    effects: list[Effect],
    after: Sequence[Opening],
) -> None:
    table = OpeningTable()
    for each in before:
        table.open(each)
    assert event(table) == effects
    assert list(table) == list(after)
