"""`doorward fleet`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from doorward.cli import output
from doorward.cli.options import add_config, configuration_path
from doorward.config.files import read
from doorward.errors import NegativeResult, UsageError
from doorward.fleet.admin import FleetAdmin, GateStatus, opening_key
from doorward.fleet.etcd import Etcd, read_access
from doorward.json_form import iso_time

_HEAD = ("gate", "state", "openings", "behind", "answered in", "clock")


@contextmanager
def open_admin(args: argparse.Namespace) -> Iterator[FleetAdmin]:
    """Open the fleet that the configuration names. UsageError if it has no [fleet]."""
    path = configuration_path(args)
    configuration = read(path)
    if configuration.fleet is None:
        raise UsageError("no-fleet-table", f"{path}: no [fleet] table: this gate belongs to no fleet; add it")
    etcd = Etcd(read_access(configuration.fleet, path.parent, configuration.gate.name or ""))
    try:
        yield FleetAdmin(etcd, configuration.fleet.name)
    finally:
        etcd.close()


def status(args: argparse.Namespace) -> int:
    """Print the state of each gate, and the number of openings in the fleet."""
    with open_admin(args) as admin:
        gates, openings = admin.status(), admin.openings()
    if args.json:
        output.as_json({"fleet": admin.fleet, "openings": len(openings), "gates": [_gate_dict(gate) for gate in gates]})
        return 0
    output.table(_HEAD, [_row(gate) for gate in gates])
    up = sum(gate.state == "up" for gate in gates)
    output.line(f"fleet {admin.fleet}: {up} of {len(gates)} gates up, {len({key[:2] for key, _ in openings})} open")
    return 0


def close(args: argparse.Namespace) -> int:
    """Close a door to an address on every gate. NegativeResult if it is open on none."""
    key = opening_key(args.door, args.address)
    with open_admin(args) as admin:
        if not admin.close(key):
            raise NegativeResult(
                "not-open", f"{args.door} is not open to {args.address} on any gate; see `doorward status --fleet`"
            )
    output.line(f"{args.door} is closed to {args.address} in the whole fleet")
    return 0


def log(args: argparse.Namespace, since_s: float) -> int:
    """Print the access log of all gates."""
    is_narrow = bool(args.door or args.address or since_s)
    with open_admin(args) as admin:
        rows = admin.records(0 if is_narrow else args.last)
    chosen = [row for row in rows if _matches(row, args, since_s)][-args.last :]
    for row in chosen:
        if args.json:
            fields = {name: row[name] for name in ("gate", "event", "door", "address", "words")}
            output.as_json({"at": iso_time(row["at_ms"] / 1000), **fields})
        else:
            text = f"{row['door']}: {row['words']}" if row["door"] else row["words"]
            moment = output.format_time(row["at_ms"] / 1000)
            output.line(f"{moment}  {row['gate']:<10}  {row['event']:<7}  {row['address']:<15}  {text}")
    return 0


def _matches(row: dict[str, Any], args: argparse.Namespace, since_s: float) -> bool:
    is_door = args.door in (None, row["door"])
    return is_door and args.address in (None, row["address"]) and row["at_ms"] >= since_s * 1000


def _row(gate: GateStatus) -> tuple[str, ...]:
    if gate.state != "up":
        return (gate.name, gate.state, *[""] * (len(_HEAD) - 2))
    answer = gate.answer
    words = [str(answer.get(key, "?")) for key in ("openings", "behind")]
    return (gate.name, gate.state, *words, f"{gate.took_ms}ms", f"{gate.offset_ms:+d}ms ±{-(-gate.took_ms // 2)}ms")


def _gate_dict(gate: GateStatus) -> dict[str, Any]:
    own = {"gate": gate.name, "state": gate.state, "took_ms": gate.took_ms, "offset_ms": gate.offset_ms}
    return own | {name: gate.answer.get(name) for name in ("openings", "behind")}


EXAMPLE = """\
  # doorward fleet forget edge-1    # its host is gone
  removed edge-1; it is listed again if its daemon starts again
exit status: 0 removed, 1 the gate is up or unknown"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command-line arguments."""
    parser.add_argument("action", metavar="forget", choices=["forget"], help="remove a gate from `status --fleet`")
    parser.add_argument("gate", metavar="GATE", help="a gate whose daemon no longer runs")
    add_config(parser)


def run(args: argparse.Namespace) -> int:
    """Remove a gate from the fleet's member list."""
    with open_admin(args) as admin:
        admin.remove(args.gate)
    output.line(f"removed {args.gate}; it is listed again if its daemon starts again")
    return 0
