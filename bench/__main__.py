"""`python -m bench [WHAT…]`: measure, and print one table. Exit status 1 where a bound is not kept."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module

from bench.table import Row, table

PARTS = (
    "latency", "path", "shield", "xdp", "passing", "siege", "daemon", "compiling", "ring", "openings", "once", "signed"
)  # fmt: skip
ASKED_FOR = ("fleet", "start")  # fleet needs etcd, and some minutes; start a machine that does nothing else


def main() -> int:
    """Run the parts asked for."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="doorward beside its peers, on this machine")
    parser.add_argument(
        "what", nargs="*", metavar="WHAT", help=f"of {', '.join(PARTS)} (default: all), or fleet, start"
    )
    parser.add_argument("--runs", type=int, default=5, help="alternating runs of each figure (default: %(default)s)")
    args = parser.parse_args()
    if unknown := set(args.what) - {*PARTS, *ASKED_FOR}:
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join((*PARTS, *ASKED_FOR))}")
    rows: list[Row] = []
    for part in args.what or PARTS:
        print(f"measuring {part} …", file=sys.stderr, flush=True)
        rows += import_module(f"bench.{part}").rows(args.runs)
    print(table(rows))
    return 0 if all(row.met for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
