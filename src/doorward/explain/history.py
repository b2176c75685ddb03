"""Diagnose an address from the ledger: its openings and refusals. Failed knocks are not recorded there."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from doorward.core.openings import USE, is_use
from doorward.daemon.confirmation_outcomes import outcome_text
from doorward.daemon.ledger import Record
from doorward.explain import wording
from doorward.explain.align import Cause, Diagnosis
from doorward.model import BY_KEY

Moment = Callable[[float], str]  # formats a time (seconds since the epoch)


def diagnose_records(address: str, records: Sequence[Record], now_s: float, moment: Moment) -> Diagnosis:
    """Return the diagnosis for the last opening or refusal; `records` are in chronological order."""
    records = [record for record in records if record.event != "banned"]
    if not records:
        what = f"no knock from {address} was ever completed: the ledger has none"
        remedy = f"see what arrives: `doorward explain --live {address}`; the client may use another address"
        return Diagnosis(Cause("no_record", what, remedy))
    last = records[-1]
    if last.event == "refused":
        what = f"the last knock was rejected at {moment(last.at_s)}: {last.detail['reason']}"
        return Diagnosis(Cause("refused", what, _remedy(address, records)), last.door)
    cause = _opening_cause(last, now_s, moment)
    if (outcome := last.detail["confirmation"]) is not None:
        cause = cause._replace(what=f"{cause.what}; {outcome_text(outcome)}")
    return Diagnosis(cause, last.door, True)


def with_ban(diagnosis: Diagnosis, address: str, until_s: float, moment: Moment) -> Diagnosis:
    """Return the diagnosis that an address is banned, for the same door."""
    fault = Cause("banned", f"{address} is banned until {moment(until_s)}", f"`doorward unban {address}` lifts the ban")
    return Diagnosis(fault, diagnosis.door)


def _opening_cause(last: Record, now_s: float, moment: Moment) -> Cause:
    detail, opened = last.detail, f"door {last.door} opened at {moment(last.at_s)}, by {last.detail['by']}"
    ports = wording.listed(detail["ports"]) or "no port"
    if detail["closed"] is None and detail["until"] > now_s:
        left = wording.span(detail["until"] - now_s)
        remedy = "if the connection still fails, check that it goes to that port, and run `doorward doctor`"
        return Cause("is_open", f"{opened}, and is open for another {left} ({ports})", remedy)
    if detail["closed_by"] == "hand":
        return Cause("closed_by_hand", f"{opened}, and was closed by hand", "knock again")
    lasted = wording.span((detail["closed"] or detail["until"]) - last.at_s)
    if is_use(by := str(detail["closed_by"])):
        what = f"{opened}, for one connection, which came after {lasted}{by[len(USE) :]}"
        return Cause("used", what, "knock before each connection")
    if detail["closed_by"] == "lost":
        remedy = "the daemon's log names the program that changed the ruleset"
        return Cause("closed_by_others", f"{opened}, and disappeared from the kernel after {lasted}", remedy)
    if detail["closed_by"] == "ban":
        return Cause("closed_by_ban", f"{opened}, and a ban closed it after {lasted}", "knock again after the ban")
    if str(detail["closed_by"]).startswith(BY_KEY):
        return Cause(
            "closed_by_knock", f"{opened}, and was closed by {detail['closed_by']} after {lasted}", "knock again"
        )
    if detail["closed_by"] == "fleet":
        what = f"{opened}, and was closed at another gate of the fleet after {lasted}"
        return Cause("closed_by_fleet", what, "knock again")
    remedy = f"knock again and connect to {ports} within that time, or increase `for`"
    return Cause("is_over", f"{opened}, and closed after {lasted}", remedy)


def _remedy(address: str, records: Sequence[Record]) -> str:
    before = sum(record.event == "opened" for record in records)
    known = f"it had opened {wording.counted(before, 'door')} before" if before else "it has never opened a door"
    return f"{known}; `doorward explain --live {address}` shows the packets of the next attempt"
