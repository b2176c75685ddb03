"""`doorward status`."""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from doorward.cli import output
from doorward.cli.options import add_config
from doorward.cli.output import LevelPrinter
from doorward.config.duration import rough_duration
from doorward.config.files import read_text, trusted_owners
from doorward.daemon import off_switch
from doorward.daemon.control_client import ask, default_path
from doorward.errors import DoorwardError
from doorward.json_form import iso_time, iso_times

if TYPE_CHECKING:
    from doorward.signed.authorized_keys import Line

EXAMPLE = """\
  $ doorward status
  doorward 0.1.0: 2 doors, mode guard; up 3h 12m, process 4711
  …
  door  ports     knock     who may              now
  ssh   22/tcp    sequence  anyone who knows it  open to 1
  db    5432/tcp  none                           closed
  …
  open  address    ports   opened by  since                left
  ssh   192.0.2.7  22/tcp  knock      2026-05-01 12:00:09  21s
exit status: 0 running; 1 no daemon is running, doorward is off, or the file
is invalid and its last good copy is in force"""
_HEAD = ("door", "ports", "knock", "who may", "now")
_MOST_DOORS = 20  # a terminal's worth; --json has more
_MOST_NAMES = 3  # of keys for a door; `doorward people` has all
_UNREAD = "keys (unreadable)"
_MOST_FAULTS = 10  # `doorward check` shows all of them
_LOSSES = {
    "ratelimit_full": "packets ignored: rate-limit table full",
    "short_window": "first knocks with a 2s deadline: too many sources in progress",
    "short_window_full": "first knocks rejected: too many sources in progress",
    "progress_full": "later knocks rejected: too many sources in progress",
    "open_full": "correct knocks rejected: open set full",
    "signed_throttled": "signed-knock packets dropped: more than 10/s from one source, 1,000/s from all",
    "signed_budget_exceeded": "signed-knock packets dropped: more than 60,000/s from all sources",
    "browser_throttled": "frames of browsers dropped: more than 10/s from one source, 200/s from all",
    "browser_budget_exceeded": "frames of browsers dropped: more than 2,000/s from all sources",
    "fwknop_throttled": "fwknop packets dropped: more than 10/s from one source, while many came from all",
    "fwknop_budget_exceeded": "fwknop packets dropped: more from all sources than can be verified",
}

_SHIELD = {  # of shield/report.py
    "dropped": "packets dropped",
    "knocked": "packets that completed a knock",
    "throttled": "over the rate limit",
    "no_room": "ignored: no room for their source",
    "evicted": "sources forgotten for others",
    "raced": "ignored: their source sent another at the same moment",
}

_REASONS = {  # of signed/authorize.py and daemon/verifier.py, and the ledger's
    "length": "of a wrong length",
    "check": "from senders that do not know the server's key",
    "sealed": "not sealed to the server's key",
    "repeated": "copies",
    "stun": "STUN frames without a signed knock",
    "fwknop": "fwknop packets that no stanza's key verifies",
    "crowded": "frames and fwknop packets that came faster than they could be verified",
    "used": "already used",
    "fleet": "undecided because etcd did not answer",
    "gate": "for another gate",
    "clock": "with a wrong time",
    "key": "by unknown keys",
    "door": "for unknown doors or gates",
    "forbidden": "not allowed for their key",
    "once-unsupported": "to open for one connection where that cannot be",
    "closed": "dated at or before a close by the same key",
    "signature": "with a wrong signature",
    "banned": "for banned addresses",
    "overlap": "for part of a network that was open",
    "quota": "beyond the quota of a key",
    "full": "with the open set full",
    "failed": "rejected by nftables",
    "lost": "losses in the kernel",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command-line arguments."""
    parser.add_argument("--json", action="store_true", help="one JSON object: doors, openings, counters, all else")
    parser.add_argument("--fleet", action="store_true", help="every gate of the fleet")
    output.add_color(parser)
    add_config(parser)


def run(args: argparse.Namespace) -> int:
    """Print the daemon's status; return 1 if it runs with its last good copy, or if doorward is off."""
    if args.fleet:
        from doorward.cli import fleet  # lazy: it imports the etcd client

        return fleet.status(args)
    printer = LevelPrinter(args.color)
    if (off_since_s := off_switch.off_since_s()) is not None:
        return _off(off_since_s, printer, as_json=args.json)
    answer = ask(default_path(), {"command": "status"})
    if args.json:
        output.as_json({"off_since": None, **as_fields(answer)})
    else:
        _print(answer, printer)
    return 1 if answer["last_good"] else 0


def as_fields(answer: Mapping[str, Any]) -> dict[str, object]:
    """Return the daemon's answer for `--json`, with who may open each door."""
    keys = _read_keys(answer)
    doors = [
        {**door, "signed": answer["signed"] is not None, "people": None if keys is None else _people(door, keys)}
        for door in answer["doors"]
    ]
    openings = [iso_times(opening, "since", "until") for opening in answer["openings"]]
    signed = answer["signed"]
    if signed is not None and signed["fwknop"] is not None:
        signed = {**signed, "fwknop": [iso_times(use, "fwknop", "signed") for use in signed["fwknop"]]}
    return {**answer, "doors": doors, "openings": openings, "signed": signed}


def _read_keys(answer: Mapping[str, Any]) -> list[Line] | None:
    """Return the keys that may send signed knocks; None if there are none, or if this user may not read them."""
    if answer["signed"] is None:
        return None
    from doorward.signed.authorized_keys import parse  # lazy: it imports `cryptography`, which other gates do not need

    try:
        keys, _ = parse(read_text(Path(answer["signed"]["authorized_keys"]), trusted_owners()), "")
    except DoorwardError:
        return None
    now_s = time.time()
    return [line for line in keys.lines if line.options.expires_s is None or now_s < line.options.expires_s]


def _people(door: Mapping[str, Any], keys: list[Line]) -> list[str]:
    """Return the names of the keys that may open a door."""
    return [line.name for line in keys if line.options.doors is None or door["name"] in line.options.doors]


def _print(answer: dict[str, Any], printer: LevelPrinter) -> None:
    up = rough_duration(answer["uptime_s"])
    output.line(f"doorward {answer['doorward_version']}: {answer['summary']}; up {up}, process {answer['pid']}")
    for text in _problems(answer):
        printer.line(("" if text.startswith(" ") else "error", text))
    keys = _read_keys(answer)
    output.line("")
    _print_doors(answer, keys, printer)
    if answer["openings"]:
        output.line("")
        _print_openings(answer["openings"], time.time())
    if workers := list(_workers(answer, keys)):
        output.line("", *workers)


def _print_doors(answer: dict[str, Any], keys: list[Line] | None, printer: LevelPrinter) -> None:
    """Print a row for each door: how it opens, who may open it, and to how many it is open."""
    doors, counts = answer["doors"], Counter(opening["door"] for opening in answer["openings"])
    is_signed = answer["signed"] is not None
    rows: list[tuple[output.Part, ...]] = []
    for door in doors[:_MOST_DOORS]:
        ways = ["signed"] * is_signed + ["sequence"] * door["sequence"]
        count = counts[door["name"]]
        now = ("good", f"open to {count}") if count else "closed"
        who = _who(door, keys, is_signed=is_signed)
        rows.append((door["name"], " ".join(door["ports"]), " or ".join(ways) or "none", who, now))
    printer.table(_HEAD, rows)
    if unlisted := answer["door_count"] - len(rows):
        output.line(f"… {unlisted:,} more doors")


def _who(door: Mapping[str, Any], keys: list[Line] | None, *, is_signed: bool) -> str:
    """Return who may open a door: the names of keys, and anyone if it has a sequence."""
    names = [_UNREAD] if keys is None and is_signed else _people(door, keys or [])
    more = [f"{len(names) - _MOST_NAMES} more"] if len(names) > _MOST_NAMES else []
    return ", ".join([*names[:_MOST_NAMES], *more, *["anyone who knows it"] * door["sequence"]])


def _print_openings(openings: list[dict[str, Any]], now_s: float) -> None:
    """Print a row for each opening."""
    rows = [
        (
            o["door"],
            o["address"],
            " ".join(o["ports"]) + (" once" if o["once"] else ""),
            o["by"],
            output.format_time(o["since"]),
            rough_duration(o["until"] - now_s),
        )
        for o in openings
    ]
    output.table(("open", "address", "ports", "opened by", "since", "left"), rows)


def _off(since_s: float, printer: LevelPrinter, *, as_json: bool) -> int:
    if as_json:
        output.as_json({"off_since": iso_time(since_s), "doors": [], "openings": []})
    else:
        since = output.format_time(since_s)
        printer.line(("error", f"doorward is off since {since}: nothing is hidden, and knocks are ignored."))
        output.line("`doorward on` brings the gate back")
    return 1


def _problems(answer: dict[str, Any]) -> Iterator[str]:
    """Yield what needs attention; what explains a line is indented."""
    if fault := answer["last_good"]:
        yield f"NOT LOADED: {answer['config']}; its last good copy is in force, and hooks do not run."
        yield "  Fix it (`doorward check`), then reload it. What is wrong:"
        yield from (f"    {line}" for line in str(fault).splitlines()[:_MOST_FAULTS])
    if (trial := answer["trial"]) is not None:
        yield f"ON TRIAL: this configuration, {rough_duration(trial['left_s'])} left"
        yield "  knock, open a new connection and run `doorward confirm` in it; otherwise the"
        yield "  previous one is restored"
    if trouble := answer["gate_trouble"]:
        yield f"the gate was {trouble}"
    if answer["ledger_trouble"]:
        yield f"the ledger cannot be written: {answer['ledger_trouble']}"
    not_open = {} if answer["signed"] is None else answer["signed"]["confirmations"]["not_open"]
    for port, why in not_open.items():
        yield f"RESTART NEEDED: {port} is not open for confirmations: {why}"


def _workers(answer: dict[str, Any], keys: list[Line] | None) -> Iterator[str]:
    """Yield the state of signed knocks, bans, the fleet and the shield, and what was lost."""
    if (signed := answer["signed"]) is not None:
        yield from _signed(signed, keys)
    if banned := answer["banned"]:
        yield f"{banned} {'is' if banned == 1 else 'are'} banned; `doorward ban` lists them"
    if (fleet := answer["fleet"]) is not None:
        yield _fleet(fleet)
    if (shield := answer.get("shield")) is not None:  # missing from an older daemon
        yield _shield(shield)
    for counter, text in _LOSSES.items():
        if count := answer["counters"].get(counter, 0):
            yield f"{count} {text}"


def _signed(signed: dict[str, Any], keys: list[Line] | None) -> Iterator[str]:
    begin = "signed knocks: ready" if signed["takes"] else "signed knocks: not ready; see the log"
    begin += f" on {', '.join(signed['ports'])}" if signed["takes"] else ""
    begin += "" if keys is None else f", {len(keys)} key{'' if len(keys) == 1 else 's'}"
    if signed["browser"]:
        begin += f"; from browsers too, which sent {signed['resent']} repeats"
    refused, confirmations = signed["refused"], signed["confirmations"]
    counted = ", ".join(f"{count} {_REASONS.get(reason, reason)}" for reason, count in sorted(refused.items()))
    yield f"{begin}; rejected: {counted}" if counted else begin
    if confirmations["is_on"]:
        counted = ", ".join(f"{count} {outcome}" for outcome, count in sorted(confirmations["counts"].items()))
        ports = ", ".join(confirmations["ports"])
        yield f"confirmations: {f'from {ports}' if ports else 'none'}" + (f"; {counted}" if counted else "")
    for use in signed["fwknop"] or ():
        yield _fwknop(use)


def _fwknop(use: dict[str, Any]) -> str:
    """Return when the holder of a shared key used it last, and whether they have moved to signed knocks."""
    fwknop_s, signed_s = use["fwknop"], use["signed"]
    last = f"last used {output.format_time(fwknop_s)}" if fwknop_s else "not used yet"
    if signed_s is None:
        moved = "no signed knock by a key of this name yet"
    elif signed_s > (fwknop_s or 0):
        moved = f"moved: signed knock {output.format_time(signed_s)}; remove the stanza"
    else:
        moved = f"uses both: signed knock {output.format_time(signed_s)}"
    return f"fwknop {use['stanza']}: {'' if use['takes'] else 'not accepted, see the log; '}{last}; {moved}"


def _shield(shield: dict[str, Any]) -> str:
    at_xdp = shield.get("at_xdp", ())  # missing from an older daemon
    names = (f"{name}{' (XDP)' * (name in at_xdp)}" for name in shield["interfaces"])
    where = f"on {', '.join(names)}" if shield["interfaces"] else "none"
    where += f"; no XDP: {shield['no_xdp']}" if shield.get("no_xdp") else ""
    counted = "".join(f"; {count:,} {_SHIELD[name]}" for name, count in shield["counters"].items() if count)
    trouble = f": {shield['trouble']}; the gate works without it" if shield["trouble"] else ""
    return f"shield: {where}{trouble}{counted}"


def _fleet(fleet: dict[str, Any]) -> str:
    touch = "in touch" if fleet["is_in_touch"] else "etcd does not answer, this gate works alone"
    owed = f", {fleet['owed']} not yet sent" if fleet["owed"] else ""
    unanswered = "".join(
        f"; {n} signed knocks {outcome} without its answer" for outcome, n in fleet["without_answer"].items()
    )
    counts = fleet["rejected"]
    reasons = ", ".join(f"{n} {reason}" for reason, n in sorted(counts.items()))
    rejected = f"; {sum(counts.values())} of its openings rejected ({reasons})" if counts else ""
    return f"fleet {fleet['name']}: {touch}; {fleet['openings']} open{owed}{unanswered}{rejected}"
