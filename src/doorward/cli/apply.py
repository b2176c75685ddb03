"""`doorward apply`."""

from __future__ import annotations

import argparse
import os
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from doorward.cli import output
from doorward.cli.config_install import Installation, check_config_path, save_last_good
from doorward.cli.options import add_config, configuration_path, trial_ms
from doorward.config.changes import describe_changes
from doorward.config.duration import rough_duration
from doorward.config.files import read_text, trusted_owners
from doorward.config.schema import Configuration
from doorward.config.toml import parse
from doorward.config.toml_positions import find_lines
from doorward.daemon.control_client import ask, default_path
from doorward.daemon.ruleset_loader import digest_of
from doorward.errors import DoorwardError, NegativeResult, UsageError
from doorward.lint.checks import warnings

EXAMPLE = """\
  # doorward apply new.toml --trial 2m
  …
  + door db: 5432/tcp
  ~ mode: guard to stealth
  newly hidden: every port that is not public
  on trial for 2m: 2 doors, mode stealth
  knock, open a new connection and run `doorward confirm` in it;
  otherwise the previous ruleset is restored. …
exit status: 0 in force, 1 no daemon or a trial is running, 2 usage or
configuration error"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command-line arguments."""
    add_config(parser)
    parser.add_argument(
        "file", metavar="FILE", type=Path, help="the configuration to load and, once in force, to install"
    )
    parser.add_argument(
        "--trial", metavar="T", type=trial_ms, help="revert after T, like 2m, unless `doorward confirm` is run first"
    )


def run(args: argparse.Namespace) -> int:
    """Check the file, have the daemon load it, and install it unless it is on trial."""
    text = read_text(args.file)
    configuration = parse(text, str(args.file))
    findings = warnings(configuration, find_lines(text))
    output.error_line(*(f"{args.file}:{finding}" for finding in findings if finding.level == "warning"))
    config = configuration_path(args).absolute()
    status = ask(default_path(), {"command": "status"})
    if status["trial"] is not None:
        raise NegativeResult(
            "trial-running", "a configuration is on trial already; run `doorward confirm` to keep it, or wait"
        )
    check_config_path(config, status)
    if config.exists() and config.samefile(args.file):
        raise UsageError(
            "daemons-own-file", f"{args.file} is the daemon's own file: reload it with SIGHUP, or apply an edited copy"
        )
    changes = _changes(config, status.get("digest", ""), configuration)
    with closing(Installation(config)) as installation:
        _apply(args, text, installation, changes)
    return 0


def _changes(config: Path, digest: str, configuration: Configuration) -> list[str]:
    """Return what differs from the daemon's file, or that this is not known: it was edited after it was loaded."""
    with suppress(DoorwardError):
        if digest_of(text := read_text(config, trusted_owners())) == digest:
            return describe_changes(parse(text, str(config)), configuration) or ["no changes"]
    return [f"{config} is not the configuration in force, so what changes is not shown"]


def _apply(args: argparse.Namespace, text: str, installation: Installation, changes: list[str]) -> None:
    installation.prepare(text)
    try:
        answer = _load(args, text)
    except DoorwardError:
        installation.discard()
        raise
    config = installation.config
    output.line(*changes)
    if args.trial is not None:
        output.line(f"on trial for {rough_duration(answer['left_s'])}: {answer['summary']}")
        output.line("knock, open a new connection and run `doorward confirm` in it;")
        output.line(f"otherwise the previous ruleset is restored. {config} is unchanged until then")
        return
    installation.finish()
    ask(default_path(), {"command": "reload_hooks"})
    save_last_good(config)
    output.line(
        f"in force: {answer['summary']}; installed as {config}, previous file saved as {installation.backup.name}"
    )


def _load(args: argparse.Namespace, text: str) -> dict[str, Any]:
    """Pass the text in a memfd, since the daemon may not be allowed to read the operator's file; return its answer."""
    request = {"command": "apply", "name": str(args.file), "trial_ms": args.trial}
    descriptor = os.memfd_create("configuration", os.MFD_CLOEXEC)
    with os.fdopen(descriptor, "wb") as file:
        file.write(text.encode())
        file.flush()
        return ask(default_path(), request, descriptor=descriptor, patience_s=None)
