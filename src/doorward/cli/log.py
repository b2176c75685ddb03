"""`doorward log`."""

from __future__ import annotations

import argparse

from doorward.cli import output
from doorward.cli.options import add_config, since_s
from doorward.config.duration import rough_duration
from doorward.core.openings import USE, is_use
from doorward.daemon.confirmation_outcomes import outcome_text
from doorward.daemon.ledger import Record, ledger_path, read_records
from doorward.errors import UsageError
from doorward.model import parse_address, sources_with

EXAMPLE = """\
  # doorward log --since 1h
  2026-05-01 12:00:09  opened   192.0.2.7        ssh: 22/tcp, by knock; closed …
  2026-05-01 12:04:51  refused  203.0.113.9      rate limit exceeded (more t…
reads the ledger; needs no daemon"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command-line arguments."""
    parser.add_argument("--since", metavar="T", help="only the last T, like 90s, 10m, 8h, 7d")
    parser.add_argument("-n", "--last", metavar="N", type=int, default=100, help="the newest N lines (default: 100)")
    parser.add_argument("--door", metavar="DOOR", help="only this door")
    parser.add_argument("--address", metavar="ADDRESS", help="only this address and networks containing it")
    parser.add_argument("--json", action="store_true", help="one JSON object per line")
    parser.add_argument("--fleet", action="store_true", help="of all gates, from etcd instead of the ledger")
    add_config(parser)


def run(args: argparse.Namespace) -> int:
    """Print the access log, oldest first."""
    if args.last < 1:
        raise UsageError("last-too-small", f"--last: {args.last} is too small; it must be at least 1")
    if args.fleet:
        from doorward.cli import fleet  # lazy: it imports the etcd client

        return fleet.log(args, since_s(args.since))
    for record in read_records(ledger_path(), since_s(args.since), args.last, args.door, _address_filter(args.address)):
        if args.json:
            output.as_json(
                {"at": record.at_s, "event": record.event, "door": record.door, "address": record.address}
                | record.detail
            )
        else:
            output.line(record_line(record))
    return 0


def _address_filter(text: str | None) -> list[str] | None:
    try:
        return None if text is None else sources_with(parse_address(text))
    except ValueError:  # a network, as written in records
        return [text or ""]


def record_line(record: Record) -> str:
    """Return a record as one line."""
    return f"{output.format_time(record.at_s)}  {record.event:<7}  {record.address:<15}  {_detail(record)}"


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
