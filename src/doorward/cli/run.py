"""`doorward run`."""

from __future__ import annotations

import argparse
import gc
import os
import time
from pathlib import Path

from doorward.cli.options import add_config, configuration_path, trial_ms
from doorward.daemon import off_switch, reply_sockets, run_as, shield_process
from doorward.daemon.control_client import default_path
from doorward.daemon.daemon import Daemon
from doorward.daemon.hooks import HookQueue
from doorward.daemon.ledger import ledger_path, open_ledger
from doorward.daemon.log import Log
from doorward.kernel import seccomp
from doorward.kernel.event_loop import EventLoop

EXAMPLE = """\
  # doorward run -c doorward.toml
  2026-05-01T12:00:00+0200 2 doors, mode guard; 0 open
  2026-05-01T12:00:09+0200 opened ssh to 192.0.2.7 for 30s (22/tcp), by knock
SIGHUP reloads the file; SIGTERM ends the daemon, and openings still expire"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command-line arguments."""
    add_config(parser)
    parser.add_argument(
        "--trial",
        metavar="T",
        type=trial_ms,
        help="end after T, like 2m, and restore the previous ruleset, unless confirmed",
    )
    parser.add_argument("--log-format", choices=("text", "json"), default="text", help="how log lines are written")


def run(args: argparse.Namespace) -> int:
    """Load the ruleset and serve until a signal ends the daemon."""
    off_switch.refuse_if_off()
    log = Log(args.log_format)
    os.umask(0o077)  # its files show who knocked, and when
    config, control = Path(configuration_path(args)).absolute(), default_path()
    identity, note = run_as.prepare(config, ledger_path(), control)
    shield = shield_process.start_early(config, identity)  # first: no command of a door may load programs
    hooks = HookQueue(EventLoop(), log, config, ledger_path().with_name("commands.lock"))  # while still root
    replies = reply_sockets.open_early(config)
    run_as.drop_privileges(identity)
    ledger, set_aside = open_ledger(ledger_path(), time.strftime("%Y%m%dT%H%M%S"))
    if set_aside:
        log.message("ledger-replaced", set_aside, "error")
    trial_s = None if args.trial is None else args.trial / 1000
    daemon = Daemon(config, control, ledger, hooks, log, replies, shield, trial_s)
    if note:
        log.message("run-as", note)
    if not seccomp.is_supported(architecture := os.uname().machine):
        log.message(
            "no-seccomp-filter",
            f"no seccomp filter for {architecture}: the processes that read packets run without one",
            "warning",
        )
    gc.collect()
    gc.freeze()  # long-lived objects; collections need not walk them
    try:
        return daemon.run()
    finally:
        daemon.close()
