"""`doorward metrics`."""

from __future__ import annotations

import argparse
import signal
import threading
from contextlib import ExitStack
from importlib.util import find_spec
from typing import TYPE_CHECKING

from doorward.cli import output
from doorward.daemon.control_client import ask, default_path
from doorward.errors import DoorwardError, NegativeResult, UsageError
from doorward.libraries import install_command

if TYPE_CHECKING:
    from doorward.cli.metrics_server import Stats

EXAMPLE = """\
  # doorward metrics --listen 127.0.0.1:9477 --listen unix:/run/m.sock &
  # curl -s http://127.0.0.1:9477/metrics | grep ^doorward_up
  doorward_up 1.0
  # curl -s --unix-socket /run/m.sock localhost/metrics | grep ^doorward_bans
  doorward_bans 0.0
without --listen: print them once"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command-line arguments."""
    parser.add_argument(
        "--listen",
        metavar="WHERE",
        action="append",
        help="serve until a signal ends it: all metrics at unix:PATH (for the process's group), the public ones at"
        " 127.0.0.1:PORT or [::1]:PORT; may be repeated",
    )


def run(args: argparse.Namespace) -> int:
    """Print the metrics once, or serve them."""
    if find_spec("prometheus_client") is None:
        remedy = f"run `{install_command('prometheus_client')}`"
        raise UsageError("no-prometheus-client", f"metrics need the Python library prometheus_client; {remedy}")
    if args.listen:
        _serve(args.listen)
    else:
        _print(ask(default_path(), {"command": "stats"}))
    return 0


def _print(stats: Stats) -> None:
    from prometheus_client import generate_latest

    from doorward.cli.metrics_server import StatsCollector

    text = generate_latest(StatsCollector(lambda: stats, is_public=False)).decode()
    output.line(*text.removesuffix("\n").split("\n"))


def _serve(listen_texts: list[str]) -> None:
    from doorward.cli.metrics_server import Server, StatsCache, parse_listen

    stats, is_over = StatsCache(_fetch).get, threading.Event()
    with ExitStack() as stack:
        servers = [stack.enter_context(Server(listen, stats)) for listen in map(parse_listen, listen_texts)]
        for signal_number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signal_number, lambda *_: is_over.set())
        for listen_text, server in zip(listen_texts, servers, strict=True):
            threading.Thread(target=server.serve_forever, daemon=True).start()
            stack.callback(server.shutdown)
            output.error_line(f"doorward: serving metrics at {listen_text}")
        is_over.wait()


def _fetch() -> Stats | None:
    """Query the daemon; without an answer, return None and print unexpected errors to standard error."""
    try:
        return ask(default_path(), {"command": "stats"})
    except NegativeResult:
        return None
    except DoorwardError as error:
        output.error_line(f"doorward: {error}")
        return None
