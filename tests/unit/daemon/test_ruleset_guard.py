"""The log of repairs names a few one by one, then a summary per minute."""

from __future__ import annotations

from doorward.daemon.ruleset_guard import RepairLogLimiter


def told(fights: RepairLogLimiter, at_s: float) -> str:
    line = fights.line("nft (process 7)", "restored after 9ms, 3 open", at_s)
    return "" if line is None else f"{line[0]}: {line[1]}"


def test_a_few_are_told_one_by_one() -> None:
    fights = RepairLogLimiter()
    for at_s in (0, 10, 20, 30, 40, 60, 70, 80):
        assert told(fights, at_s) == "warning: nft (process 7) changed the gate; restored after 9ms, 3 open"


def test_a_fight_has_a_loud_line_a_minute() -> None:
    fights = RepairLogLimiter()
    lines = [told(fights, number * 0.05) for number in range(20 * 150)]  # 150 seconds of it
    assert all(line.startswith("warning: nft (process 7) changed") for line in lines[:5])
    assert lines[5].startswith("error: nft (process 7) keeps changing the gate, 6 times")
    spoken = [number for number, line in enumerate(lines) if line]
    assert len(spoken) <= 3 * 6
    assert "1195 more repairs since the last line" in "".join(lines[1200:1206])


def test_after_a_quiet_minute_it_begins_anew() -> None:
    fights = RepairLogLimiter()
    for number in range(20):
        told(fights, number)
    assert told(fights, 100) == (
        "warning: nft (process 7) changed the gate; restored after 9ms, 3 open (15 more repairs since the last line)"
    )
    assert told(fights, 101) == "warning: nft (process 7) changed the gate; restored after 9ms, 3 open"
