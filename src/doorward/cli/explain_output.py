"""Output of `doorward explain`: packets in 80 columns, and the diagnosis below them."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from doorward.cli import output
from doorward.cli.log import record_fields, record_parts
from doorward.cli.output import LevelPrinter
from doorward.daemon.ledger import Record
from doorward.explain.align import Diagnosis
from doorward.explain.compiled_config import CompiledConfig
from doorward.explain.replay import ReplayStep
from doorward.explain.summary import PacketRow, SourceSummary, Summary, build_row, rows
from doorward.json_form import iso_time
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
    compiled: CompiledConfig,
    summary: Summary,
    began_s: float,
    servers: frozenset[bytes],
    printer: LevelPrinter,
    *,
    whole: bool,
    as_json: bool,
) -> None:
    """Print every source, and how many are not shown."""
    if as_json:
        for source in summary.sources:
            output.as_json(_source_dict(compiled, source, began_s))
        return
    for source in summary.sources:
        _print_source(compiled, source, began_s, servers, printer, whole=whole)
    if summary.more_knocking:
        output.line(f"{summary.more_knocking:,} more sources sent packets to door ports; use --source ADDRESS")
    if not summary.sources:
        who = f"none of {summary.others:,} sources" if summary.others else "no source"
        output.line(f"=> {who} sent packets to a door port")
    elif summary.others:
        output.line(f"{summary.others:,} other sources sent no packets to door ports")


def print_live(
    compiled: CompiledConfig, summary: Summary, began_s: float, printer: LevelPrinter, *, as_json: bool
) -> None:
    """Print the diagnosis after a live capture."""
    for source in summary.sources:
        if as_json:
            output.as_json(_source_dict(compiled, source, began_s))
        else:
            _print_diagnosis(source.diagnosis, printer)


def print_step(compiled: CompiledConfig, step: ReplayStep, address: Address) -> None:
    """Print a packet of a live capture, with its source if that is another address of the same network."""
    row = build_row(compiled, step)
    if (source := ip_address(step.captured.flow.source)) != address:
        row = row._replace(meaning=f"from {source}: {row.meaning}")
    _print_row(row, step.at_s, _Columns(_LIVE_PACKET, _LIVE_STATE))
    sys.stdout.flush()


def print_history(
    address: Address, records: Sequence[Record], diagnosis: Diagnosis, printer: LevelPrinter, *, as_json: bool
) -> None:
    """Print the ledger's records of an address, and the diagnosis."""
    if as_json:
        fields = [record_fields(record) for record in records]
        output.as_json({"source": str(address)} | _diagnosis_dict(diagnosis) | {"records": fields})
        return
    for record in records:
        printer.line(*record_parts(record))
    _print_diagnosis(diagnosis, printer)


def _print_source(
    compiled: CompiledConfig,
    source: SourceSummary,
    began_s: float,
    servers: frozenset[bytes],
    printer: LevelPrinter,
    *,
    whole: bool,
) -> None:
    trace = source.trace
    if trace.steps:
        server = [str(ip_address(host)) for host in sorted(servers) if len(host) == len(trace.source)]
        at = f" at {' and '.join(server)}" if server else ""
        first_s = trace.steps[0].at_s
        output.line(f"{ip_address(trace.source)}{at}, {output.format_time(began_s + first_s)}")
        _print_rows(list(rows(compiled, trace)), first_s, whole=whole)
    _print_diagnosis(source.diagnosis, printer)
    output.line("")


def _print_rows(table_rows: list[PacketRow], first_s: float, *, whole: bool) -> None:
    columns = _Columns(
        max(len(row.packet) for row in table_rows), max(5, *(min(len(row.state), 22) for row in table_rows))
    )
    lines = list(_folded(table_rows))
    if len(lines) > MOST_ROWS and not whole:
        output.line(f"{'':>{_TIME}}  … {len(lines) - MOST_ROWS} earlier lines")
        lines = lines[-MOST_ROWS:]
    for line in lines:
        if isinstance(line, PacketRow):
            _print_row(line, line.at_s - first_s, columns)
        else:
            output.line(f"{'':>{_TIME}}  … {line:,} more like these")


def _folded(table_rows: Sequence[PacketRow]) -> Iterator[PacketRow | int]:
    """Yield rows; for a long run of equal ones, the first two and the number of the others."""
    start = 0
    while start < len(table_rows):
        end = start
        while end < len(table_rows) and table_rows[end][3:] == table_rows[start][3:]:
            end += 1
        if end - start > ALIKE:
            yield from (table_rows[start], table_rows[start + 1], end - start - 2)
        else:
            yield from table_rows[start:end]
        start = end


def _print_row(row: PacketRow, offset_s: float, columns: _Columns) -> None:
    parts = textwrap.wrap(row.meaning, columns.made_of) or [""]
    states = textwrap.wrap(row.state, columns.state) or [""]
    gap = " " * _GAP
    for index in range(max(len(parts), len(states))):
        time = f"{_offset(offset_s):>{_TIME}}" if index == 0 else " " * _TIME
        packet = row.packet if index == 0 else ""
        part, state = (texts[index] if index < len(texts) else "" for texts in (parts, states))
        output.line(f"{time}{gap}{packet:<{columns.packet}}{gap}{part:<{columns.made_of}}{gap}{state}".rstrip())


def _offset(seconds: float) -> str:
    return f"{seconds:.3f}" if abs(seconds) < 9999.9995 else f"{seconds:.0f}"


def _print_diagnosis(diagnosis: Diagnosis, printer: LevelPrinter) -> None:
    level = "good" if diagnosis.opened else "error"
    for line in _indented(diagnosis.fault.what, "=> "):
        printer.line((level, line))
    if diagnosis.fault.remedy:
        output.line(*_indented(f"hint: {diagnosis.fault.remedy}"))
    for fault in diagnosis.also:
        output.line(*_indented(f"also: {fault.what}"))


def _indented(text: str, mark: str = "   ") -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=mark, subsequent_indent="   ")


def _source_dict(compiled: CompiledConfig, source: SourceSummary, began_s: float) -> dict[str, object]:
    packets = [
        {
            "number": row.number,
            "at": iso_time(began_s + row.at_s),
            "packet": row.packet,
            "verdict": row.verdict,
            "made_of": row.meaning,
            "state": row.state,
        }
        for row in rows(compiled, source.trace)
    ]
    return {"source": str(ip_address(source.trace.source))} | _diagnosis_dict(source.diagnosis) | {"packets": packets}


def _diagnosis_dict(diagnosis: Diagnosis) -> dict[str, object]:
    return {
        "door": diagnosis.door,
        "opened": diagnosis.opened,
        "conclusion": diagnosis.fault._asdict(),
        "also": [fault._asdict() for fault in diagnosis.also],
    }
