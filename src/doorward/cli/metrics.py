"""`doorward metrics`."""

from __future__ import annotations

import argparse
import signal
import threading
from importlib.util import find_spec

from doorward.cli import render
from doorward.daemon.control import ask, default_path
from doorward.errors import AnswerNo, DoorwardError, UsageError

EXAMPLE = """\
  # doorward metrics --listen 127.0.0.1:9477 &
  # curl -s http://127.0.0.1:9477/metrics | grep ^doorward_openings
  doorward_openings 2.0
without --listen: printed once. exit status: 0 done, 1 no daemon answers"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's words."""
    parser.add_argument(
        "--listen", metavar="WHERE", help="serve at unix:PATH, 127.0.0.1:PORT or [::1]:PORT until a signal ends it"
    )


def run(args: argparse.Namespace) -> int:
    """Print the numbers, or serve them."""
    if find_spec("prometheus_client") is None:
        raise UsageError("metrics need prometheus_client; install it: pip install 'doorward[metrics]'")
    from doorward.metrics.families import exposition

    if args.listen is None:
        numbers = exposition(ask(default_path(), {"command": "numbers"})).decode()
        render.line(*numbers.removesuffix("\n").split("\n"))
        return 0
    _serve(args.listen)
    return 0


def _serve(where: str) -> None:
    from doorward.metrics.server import Answers, Server, parse_listen

    server = Server(parse_listen(where), Answers(_exposition))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: threading.Thread(target=server.shutdown).start())
    render.complain(f"doorward: serves metrics at {where}")
    try:
        server.serve_forever()
    finally:
        server.server_close()


def _exposition() -> bytes:
    """Ask the daemon; that none answers is a number too, and why is said where the operator looks."""
    from doorward.metrics.families import exposition

    try:
        return exposition(ask(default_path(), {"command": "numbers"}))
    except AnswerNo:
        return exposition(None)
    except DoorwardError as error:
        render.complain(f"doorward: {error}")
        return exposition(None)
