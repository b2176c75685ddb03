"""`doorward metrics`."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from importlib.util import find_spec

from doorward.daemon.control import ask, default_path
from doorward.errors import AnswerNo, DoorwardError, UsageError
from doorward.libraries import install_command

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
        remedy = f"run `{install_command('prometheus_client')}`"
        raise UsageError(f"metrics need the Python library prometheus_client; {remedy}")
    from doorward.metrics.families import exposition

    if args.listen is None:
        sys.stdout.write(exposition(ask(default_path(), {"command": "numbers"})).decode())
        return 0
    _serve(args.listen)
    return 0


def _serve(where: str) -> None:
    from doorward.metrics.server import Answers, Server, parse_listen

    server = Server(parse_listen(where), Answers(_exposition))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: threading.Thread(target=server.shutdown).start())
    sys.stderr.write(f"doorward: serves metrics at {where}\n")
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
        sys.stderr.write(f"doorward: {error}\n")
        return exposition(None)
