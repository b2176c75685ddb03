"""`doorward status`."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from typing import Any

from doorward.cli import output
from doorward.cli.options import add_config
from doorward.config.duration import rough_duration
from doorward.daemon import off_switch
from doorward.daemon.control_client import ask, default_path

EXAMPLE = """\
  $ doorward status
  door  address    ports     opened by  since                left
  ssh   192.0.2.7  22/tcp    knock      2026-05-01 12:00:09  21s
  db    closed     5432/tcp
  2 doors, mode guard, process 4711
exit status: 0 running; 1 no daemon is running, doorward is off, or the file
is invalid and its last good copy is in force"""
_HEAD = ("door", "address", "ports", "opened by", "since", "left")
_MOST_CLOSED = 20  # a terminal's worth; --json has more
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
}

_SHIELD = {  # of shield/libbpf.py
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
    "used": "already used",
    "fleet": "undecided because etcd did not answer",
    "gate": "for another gate",
    "clock": "with a wrong time",
    "key": "by unknown keys",
    "door": "for unknown doors or gates",
    "forbidden": "not allowed for their key",
    "once-unsupported": "to open for one connection, which is not supported yet",
    "closed": "dated at or before a close by the same key",
    "close-unsupported": "to close a shared door, which is not supported yet",
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
    parser.add_argument("--json", action="store_true", help="one JSON object: openings, counters, everything else")
    parser.add_argument("--fleet", action="store_true", help="every gate of the fleet")
    add_config(parser)


def run(args: argparse.Namespace) -> int:
    """Print the daemon's status; return 1 if it runs with its last good copy, or if doorward is off."""
    if args.fleet:
        from doorward.cli import fleet  # lazy: it imports the etcd client

        return fleet.status(args)
    if (off_since_s := off_switch.off_since_s()) is not None:
        return _off(off_since_s, as_json=args.json)
    answer = ask(default_path(), {"command": "status"})
    status = 1 if answer.get("last_good") else 0  # missing from an older daemon
    if args.json:
        output.as_json({"off_since": None, **answer})
        return status
    _print_doors(answer, time.time())
    output.line(f"{answer['summary']}, process {answer['pid']}")
    _remark(answer)
    if (shield := answer.get("shield")) is not None:  # missing from an older daemon
        output.line(_shield(shield))
    return status


def _print_doors(answer: dict[str, Any], now_s: float) -> None:
    """Print a row for each opening, then one for each door that is closed to everyone."""
    openings, doors = answer["openings"], answer.get("doors", ())  # doors: missing from an older daemon
    rows = [
        (
            o["door"],
            o["address"],
            " ".join(o["ports"]),
            o["by"],
            output.format_time(o["since"]),
            rough_duration(o["until"] - now_s),
        )
        for o in openings
    ]
    is_open = {o["door"] for o in openings}
    closed = [(name, "closed", " ".join(ports)) for name, ports, _ in doors if name not in is_open]
    rows += [(*row, "", "", "") for row in closed[:_MOST_CLOSED]]
    shown = len(_HEAD) if openings else 3
    output.table(_HEAD[:shown], [row[:shown] for row in rows])
    if unlisted := answer.get("door_count", 0) - len(doors) + len(closed[_MOST_CLOSED:]):
        output.line(f"… {unlisted:,} more doors")


def _off(since_s: float, *, as_json: bool) -> int:
    if as_json:
        output.as_json({"off_since": since_s, "openings": []})
    else:
        output.line(f"doorward is off since {output.format_time(since_s)}: nothing is hidden, and knocks are ignored.")
        output.line("`doorward on` brings the gate back")
    return 1


def _remark(answer: dict[str, Any]) -> None:
    """Print problems, and the state of signed knocks and of the fleet."""
    if fault := answer.get("last_good"):
        _not_loaded(answer["config"], str(fault))
    if (trial := answer.get("trial")) is not None:  # missing from an older daemon
        output.line(f"this configuration is on trial, {rough_duration(trial['left_s'])} left: knock, open a new")
        output.line("connection and run `doorward confirm` in it; otherwise the previous one is restored")
    for counter, text in _LOSSES.items():
        if count := answer["counters"].get(counter, 0):  # missing from an older daemon
            output.line(f"{count} {text}")
    if (signed := answer.get("signed")) is not None:
        output.line(*_signed(signed))
    if banned := answer.get("banned"):
        output.line(f"{banned} {'is' if banned == 1 else 'are'} banned; `doorward ban` lists them")
    if (fleet := answer.get("fleet")) is not None:
        output.line(_fleet(fleet))
    if trouble := answer.get("gate_trouble"):  # missing from an older daemon
        output.line(f"the gate was {trouble}")
    if answer["ledger_trouble"]:
        output.line(f"the ledger cannot be written: {answer['ledger_trouble']}")


def _not_loaded(config: str, fault: str) -> None:
    output.line(f"NOT LOADED: {config}; its last good copy is in force, and hooks do not run.")
    output.line("Fix it (`doorward check`), then reload it. What is wrong:")
    for line in fault.splitlines()[:_MOST_FAULTS]:
        output.line(f"  {line}")


def _signed(signed: dict[str, Any]) -> Iterator[str]:
    begin = "signed knocks: ready" if signed["takes"] else "signed knocks: not ready; see the log"
    if signed.get("browser"):  # missing from an older daemon
        begin += f"; from browsers too, which sent {signed['resent']} repeats"
    refused, confirmations = signed["refused"], signed["confirmations"]
    counted = ", ".join(f"{count} {_REASONS.get(reason, reason)}" for reason, count in sorted(refused.items()))
    yield f"{begin}; rejected: {counted}" if counted else begin
    if confirmations["is_on"]:
        counted = ", ".join(f"{count} {outcome}" for outcome, count in sorted(confirmations["counts"].items()))
        ports = ", ".join(confirmations["ports"])
        yield f"confirmations: {f'from {ports}' if ports else 'none'}" + (f"; {counted}" if counted else "")
    for port, why in confirmations["not_open"].items():
        yield f"RESTART NEEDED: {port} is not open for confirmations: {why}"


def _shield(shield: dict[str, Any]) -> str:
    where = f"on {', '.join(shield['interfaces'])}" if shield["interfaces"] else "none"
    counted = "".join(f"; {count:,} {_SHIELD[name]}" for name, count in shield["counters"].items() if count)
    trouble = f": {shield['trouble']}; the gate works without it" if shield["trouble"] else ""
    return f"shield: {where}{trouble}{counted}"


def _fleet(fleet: dict[str, Any]) -> str:
    touch = "in touch" if fleet["is_in_touch"] else "etcd does not answer, this gate works alone"
    owed = f", {fleet['owed']} not yet sent" if fleet["owed"] else ""
    unanswered = "".join(
        f"; {n} signed knocks {outcome} without its answer" for outcome, n in fleet["without_answer"].items()
    )
    counts = fleet.get("rejected", {})  # missing from an older daemon
    reasons = ", ".join(f"{n} {reason}" for reason, n in sorted(counts.items()))
    rejected = f"; {sum(counts.values())} of its openings rejected ({reasons})" if counts else ""
    return f"fleet {fleet['name']}: {touch}; {fleet['openings']} open{owed}{unanswered}{rejected}"
