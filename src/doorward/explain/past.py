"""What the ledger knows of an address, in one line: openings and refusals, never a knock that came to nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from doorward.explain import words
from doorward.explain.conclusion import Conclusion, Fault
from doorward.ledger import Record

Moment = Callable[[float], str]  # writes a time


def conclude_records(address: str, records: Sequence[Record], now_s: float, moment: Moment) -> Conclusion:
    """Judge by the last opening or refusal; `records` are in the order of time."""
    records = [record for record in records if record.event != "banned"]
    if not records:
        what = f"the ledger has nothing of {address}: no knock from there was ever complete"
        remedy = f"see what arrives: `doorward explain --live {address}`; it may come from another address"
        return Conclusion(Fault("no_record", what, remedy))
    last = records[-1]
    if last.event == "refused":
        what = f"it was refused last, at {moment(last.at_s)}: {last.detail['reason']}"
        return Conclusion(Fault("refused", what, _remedy(address, records)), last.door)
    return Conclusion(_of_opening(last, now_s, moment), last.door, True)


def with_ban(conclusion: Conclusion, address: str, until_s: float, moment: Moment) -> Conclusion:
    """Conclude that an address is banned, whatever else came of its packets."""
    fault = Fault("banned", f"{address} is banned until {moment(until_s)}", f"`doorward unban {address}` ends that")
    return Conclusion(fault, conclusion.door)


def _of_opening(last: Record, now_s: float, moment: Moment) -> Fault:
    detail, opened = last.detail, f"door {last.door} opened at {moment(last.at_s)}, by {last.detail['by']}"
    ports = words.listed(detail["ports"]) or "no port"
    if detail["closed"] is None and detail["until"] > now_s:
        left = words.span(detail["until"] - now_s)
        remedy = "if the connection fails all the same, run `doorward doctor`, and see that it goes to that port"
        return Fault("is_open", f"{opened}, and is open for {left} more ({ports})", remedy)
    if detail["closed_by"] == "hand":
        return Fault("closed_by_hand", f"{opened}, and was closed by hand", "knock again")
    lasted = words.span((detail["closed"] or detail["until"]) - last.at_s)
    if detail["closed_by"] == "lost":
        remedy = "see in the daemon's log which program changed the gate"
        return Fault("closed_by_others", f"{opened}, and the kernel lost it after {lasted}", remedy)
    if detail["closed_by"] == "ban":
        return Fault("closed_by_ban", f"{opened}, and a ban closed it after {lasted}", "knock again once it is over")
    remedy = f"connect within that time to {ports}, or write a longer `for`; then knock again"
    return Fault("is_over", f"{opened}, and its time was over after {lasted}", remedy)


def _remedy(address: str, records: Sequence[Record]) -> str:
    before = sum(record.event == "opened" for record in records)
    known = f"it had opened {words.counted(before, 'door')} before" if before else "it has opened none so far"
    return f"{known}; `doorward explain --live {address}` shows the packets of the next try"
