"""`doorward log`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator

from doorward.cli import output
from doorward.cli.options import SINCE_HELP, add_config, since_s
from doorward.cli.output import LevelPrinter, Part
from doorward.config.duration import rough_duration
from doorward.core.openings import USE, is_use
from doorward.daemon.confirmation_outcomes import outcome_text
from doorward.daemon.ledger import Record, ledger_path, read_records
from doorward.errors import HostError, UsageError
from doorward.json_form import iso_times
from doorward.model import BY_BROWSER, parse_address, sources_with

EXAMPLE = """\
  # doorward log --since 1h
  2026-05-01 12:00:09  opened   192.0.2.7        ssh: 22/tcp, by knock; closed …
  2026-05-01 12:04:51  refused  203.0.113.9      rate limit exceeded (more t…
needs no daemon; with -f, an opening is printed again when it ends"""
_LEVELS = {"opened": "good", "refused": "warning", "banned": "error"}
MOST_FOLLOWED = 10_000  # records that are read at each poll; of more in between the oldest are left out
_POLL_S = 1.0
_OVERLAP_S = 10.0  # a refusal may be recorded so much later than another that happened after it
_LATE_S = 3600.0  # a daemon that was down records an end late


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command-line arguments."""
    parser.add_argument("-f", "--follow", action="store_true", help="print new records too, until Ctrl-C")
    parser.add_argument("--since", metavar="T", help=SINCE_HELP)
    parser.add_argument("-n", "--last", metavar="N", type=int, default=100, help="the newest N lines (default: 100)")
    parser.add_argument("--door", metavar="DOOR", help="only this door")
    parser.add_argument("--address", metavar="ADDRESS", help="only this address and networks containing it")
    parser.add_argument("--by", metavar="NAME", help="only what this key opened, or `knock`, or `hand`")
    parser.add_argument("--json", action="store_true", help="one JSON object per line")
    parser.add_argument("--fleet", action="store_true", help="of all gates, from etcd instead of the ledger")
    output.add_color(parser)
    add_config(parser)


def run(args: argparse.Namespace) -> int:
    """Print the access log, oldest first."""
    if args.last < 1:
        raise UsageError("last-too-small", f"--last: {args.last} is too small; it must be at least 1")
    if args.fleet:
        from doorward.cli import fleet  # lazy: it imports the etcd client

        if args.follow or args.by is not None:
            raise UsageError("ledger-only", "-f and --by read the ledger of this host; leave them out, or --fleet")
        return fleet.log(args, since_s(args.since))
    printer = LevelPrinter(args.color)
    for record in _followed(args) if args.follow else _records(args, since_s(args.since), args.last):
        if args.json:
            output.as_json(record_fields(record))
        else:
            printer.line(*record_parts(record))
        if args.follow:
            sys.stdout.flush()
    return 0


def _records(args: argparse.Namespace, begin_s: float, last: int, refused_s: float = 0.0) -> Iterator[Record]:
    by = None if args.by is None else [args.by, f"key {args.by}", f"key {args.by}{BY_BROWSER}"]
    last = min(last, sys.maxsize)  # the largest number that SQLite takes
    return read_records(ledger_path(), begin_s, last, args.door, _address_filter(args.address), by, refused_s)


def _followed(args: argparse.Namespace) -> Iterator[Record]:
    """Yield the records, and then without end each that is new or has changed, also in a ledger that replaces this."""
    begin_s, refused_s, known, trouble = since_s(args.since), 0.0, set[str](), ""
    records = list(_records(args, begin_s, args.last))
    while True:
        texts = list(map(repr, records))
        yield from (record for text, record in zip(texts, records, strict=True) if text not in known)
        late_s = time.time() - _LATE_S  # to read a full ledger from its beginning takes half of each second
        changing_s = (record.at_s for record in records if record.detail.get("until", record.at_s) >= late_s)
        begin_s, known = min(changing_s, default=max(begin_s, late_s)), set(texts)
        refused = (record.at_s - _OVERLAP_S for record in records if record.event == "refused")
        refused_s = max(refused, default=refused_s)  # they do not change, and may be many
        time.sleep(_POLL_S)
        try:
            records, trouble = list(_records(args, begin_s, max(args.last, MOST_FOLLOWED), refused_s)), ""
        except HostError as error:
            if str(error) != trouble:
                output.error_line(f"doorward: warning: {error}")
            trouble = str(error)


def _address_filter(text: str | None) -> list[str] | None:
    try:
        return None if text is None else sources_with(parse_address(text))
    except ValueError:  # a network, as written in records
        return [text or ""]


def record_fields(record: Record) -> dict[str, object]:
    """Return a record for `--json`."""
    fields = {"at": record.at_s, "event": record.event, "door": record.door, "address": record.address}
    return iso_times({**fields, **record.detail}, "at", "until", "closed", "ended")


def record_parts(record: Record) -> tuple[Part, ...]:
    """Return a record as the parts of one line."""
    event = (_LEVELS.get(record.event, ""), f"{record.event:<7}")
    return f"{output.format_time(record.at_s)}  ", event, f"  {record.address:<15}  {_detail(record)}"


def _detail(record: Record) -> str:
    detail = record.detail
    if record.event == "refused":
        return f"{record.door}: {detail['reason']}" if record.door else str(detail["reason"])
    if record.event == "banned":
        ended_s = detail["ended"]
        ended = "" if ended_s is None else f"; ended after {rough_duration(ended_s - record.at_s)}"
        return f"until {output.format_time(detail['until'])}{ended}"
    text = f"{record.door}: {', '.join(detail['ports']) or 'no port'}, by {detail['by']}"
    if detail["closed"] is None:
        text += f"; until {output.format_time(detail['until'])}"
    else:
        how, after = str(detail["closed_by"]), rough_duration(detail["closed"] - record.at_s)
        text += f"; used after {after}{how[len(USE) :]}" if is_use(how) else f"; closed after {after}, by {how}"
    return text if detail["confirmation"] in (None, "sent") else f"{text}; {outcome_text(detail['confirmation'])}"
