"""Output of `doorward explain`: packets in 80 columns, and the diagnosis below them."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from doorward.cli import output
from doorward.cli.log import text_of
from doorward.daemon.ledger import Record
from doorward.explain.align import Diagnosis
from doorward.explain.compiled_config import CompiledConfig
from doorward.explain.replay import ReplayStep
from doorward.explain.summary import PacketRow, SourceSummary, Summary, build_row, rows
from doorward.model import Address

WIDTH = 80
MOST_ROWS = 60  # per source, the last ones, unless --source selects it
ALIKE = 4  # more rows than this that differ only in the port are folded into two and a count
_TIME, _GAP = 8, 2
_LIVE_PACKET, _LIVE_STATE = 16, 10


@dataclass(frozen=True, slots=True)
class _Columns:
    packet: int
    state: int

    @property
    def made_of(self) -> int:
        return WIDTH - _TIME - self.packet - self.state - 3 * _GAP


def print_report(
    house: CompiledConfig, found: Summary, began_s: float, hosts: frozenset[bytes], *, whole: bool, as_json: bool
) -> None:
    """Print every source, and how many are not shown."""
    if as_json:
        for told in found.told:
            output.as_json(_object(house, told, began_s))
        return
    for told in found.told:
        _print_source(house, told, began_s, hosts, whole=whole)
    if found.more_knocking:
        output.line(f"{found.more_knocking:,} more sources went to ports of doors; --source ADDRESS shows one")
    if not found.told:
        what = f"{found.others:,} sources, and none" if found.others else "nobody"
        output.line(f"=> {what} went to a port of a door")
    elif found.others:
        output.line(f"{found.others:,} other sources went to no port of a door")


def print_live(house: CompiledConfig, found: Summary, began_s: float, *, as_json: bool) -> None:
    """Print the diagnosis after a live capture."""
    for told in found.told:
        if as_json:
            output.as_json(_object(house, told, began_s))
        else:
            _print_conclusion(told.conclusion)


def print_step(house: CompiledConfig, step: ReplayStep, asked_for: Address) -> None:
    """Print a packet of a live capture, with its source if that is another address of the same network."""
    row = build_row(house, step)
    if (source := ip_address(step.seen.flow.source)) != asked_for:
        row = row._replace(made_of=f"from {source}: {row.made_of}")
    _print_row(row, step.at_s, _Columns(_LIVE_PACKET, _LIVE_STATE))
    sys.stdout.flush()


def print_past(address: Address, records: Sequence[Record], conclusion: Diagnosis, *, as_json: bool) -> None:
    """Print the ledger's records of an address, and the diagnosis."""
    if as_json:
        listed = [{"at": r.at_s, "event": r.event, "door": r.door} | r.detail for r in records]
        output.as_json({"source": str(address)} | _conclusion(conclusion) | {"records": listed})
        return
    for record in records:
        output.line(text_of(record))
    _print_conclusion(conclusion)


def _print_source(
    house: CompiledConfig, told: SourceSummary, began_s: float, hosts: frozenset[bytes], *, whole: bool
) -> None:
    trace = told.trace
    if trace.steps:
        here = [str(ip_address(host)) for host in sorted(hosts) if len(host) == len(trace.source)]
        at = f" at {' and '.join(here)}" if here else ""
        first_s = trace.steps[0].at_s
        output.line(f"{ip_address(trace.source)}{at}, {output.moment(began_s + first_s)}")
        _print_rows(list(rows(house, trace)), first_s, whole=whole)
    _print_conclusion(told.conclusion)
    output.line("")


def _print_rows(found: list[PacketRow], first_s: float, *, whole: bool) -> None:
    columns = _Columns(max(len(row.packet) for row in found), max(5, *(min(len(row.state), 22) for row in found)))
    lines = list(_folded(found))
    if len(lines) > MOST_ROWS and not whole:
        output.line(f"{'':>{_TIME}}  … {len(lines) - MOST_ROWS} lines before")
        lines = lines[-MOST_ROWS:]
    for line in lines:
        if isinstance(line, PacketRow):
            _print_row(line, line.at_s - first_s, columns)
        else:
            output.line(f"{'':>{_TIME}}  … {line:,} more like these")


def _folded(found: Sequence[PacketRow]) -> Iterator[PacketRow | int]:
    """Yield rows; for a long run of equal ones, the first two and the number of the others."""
    start = 0
    while start < len(found):
        end = start
        while end < len(found) and found[end][3:] == found[start][3:]:
            end += 1
        if end - start > ALIKE:
            yield from (found[start], found[start + 1], end - start - 2)
        else:
            yield from found[start:end]
        start = end


def _print_row(row: PacketRow, offset_s: float, columns: _Columns) -> None:
    parts = textwrap.wrap(row.made_of, columns.made_of) or [""]
    states = textwrap.wrap(row.state, columns.state) or [""]
    gap = " " * _GAP
    for number in range(max(len(parts), len(states))):
        time = f"{_offset(offset_s):>{_TIME}}" if number == 0 else " " * _TIME
        packet = row.packet if number == 0 else ""
        part, state = (each[number] if number < len(each) else "" for each in (parts, states))
        output.line(f"{time}{gap}{packet:<{columns.packet}}{gap}{part:<{columns.made_of}}{gap}{state}".rstrip())


def _offset(seconds: float) -> str:
    return f"{seconds:.3f}" if abs(seconds) < 9999.9995 else f"{seconds:.0f}"


def _print_conclusion(conclusion: Diagnosis) -> None:
    _print_indented(conclusion.fault.what, "=> ")
    if conclusion.fault.remedy:
        _print_indented(f"hint: {conclusion.fault.remedy}")
    for fault in conclusion.also:
        _print_indented(f"also: {fault.what}")


def _print_indented(text: str, mark: str = "   ") -> None:
    for line in textwrap.wrap(text, WIDTH, initial_indent=mark, subsequent_indent="   "):
        output.line(line)


def _object(house: CompiledConfig, told: SourceSummary, began_s: float) -> dict[str, object]:
    packets = [
        {
            "number": row.number,
            "at": began_s + row.at_s,
            "packet": row.packet,
            "verdict": row.verdict,
            "made_of": row.made_of,
            "state": row.state,
        }
        for row in rows(house, told.trace)
    ]
    return {"source": str(ip_address(told.trace.source))} | _conclusion(told.conclusion) | {"packets": packets}


def _conclusion(conclusion: Diagnosis) -> dict[str, object]:
    return {
        "door": conclusion.door,
        "opened": conclusion.opened,
        "conclusion": conclusion.fault._asdict(),
        "also": [fault._asdict() for fault in conclusion.also],
    }
