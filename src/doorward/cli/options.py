"""Options that several commands share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from doorward.cli.output import line
from doorward.config.duration import parse_duration_ms
from doorward.config.files import default_path
from doorward.errors import DoorwardError, InvalidValueError, UsageError

Answer = TypeVar("Answer")


def is_terminal() -> bool:
    """Return whether the command runs on a terminal."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def prompt(question: str, default: str, parse: Callable[[str], Answer]) -> Answer:
    """Prompt until the answer is valid; Enter takes the default. UsageError at the end of the input."""
    prompt_text = f"{question} [{default}]: " if default else f"{question}: "
    while True:
        try:
            text = input(prompt_text).strip()
        except EOFError:
            line("")
            raise UsageError("end-of-input", "unexpected end of input; use --yes for non-interactive setup") from None
        try:
            return parse(text or default)
        except DoorwardError as error:
            line(f"  {error}")


def add_config(parser: argparse.ArgumentParser) -> None:
    """Declare `-c FILE`."""
    parser.add_argument(
        "-c",
        "--config",
        metavar="FILE",
        type=Path,
        help=f"the configuration (default: {default_path()})".replace("%", "%%"),
    )


def configuration_path(args: argparse.Namespace) -> Path:
    """Return the path of --config, or the default."""
    path: Path = default_path() if args.config is None else args.config
    return path


def trial_ms(text: str) -> int:
    """Parse `--trial T` to milliseconds."""
    from doorward.config.schema import LONGEST_TRIAL_MS, SHORTEST_TRIAL_MS  # needed for this option only

    try:
        for_ms = parse_duration_ms(text)
    except InvalidValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if not SHORTEST_TRIAL_MS <= for_ms <= LONGEST_TRIAL_MS:
        raise argparse.ArgumentTypeError(f"a trial of {text} is out of range; write 1s to 24h")
    return for_ms


SINCE_HELP = "only the last T, like 90s, 8h, 7d, or from a time on: today, 2026-05-01, 2026-05-01T12:00"


def since_s(text: str | None) -> float:
    """Parse `--since T` to seconds since the epoch; 0 if not given. UsageError if it is invalid or in the future."""
    if text is None:
        return 0.0
    now = datetime.now().astimezone()
    if text == "today":
        text = str(now.date())
    with suppress(ValueError, OverflowError):  # a moment; without a zone it is in the local one
        begin_s = datetime.fromisoformat(text).timestamp()
        if begin_s > now.timestamp():
            raise UsageError("since-in-future", f"--since: {text} is in the future; write an earlier time, or like 8h")
        return begin_s
    try:
        return now.timestamp() - parse_duration_ms(text) / 1000
    except InvalidValueError as error:
        raise UsageError(error.code, f"--since: {error}; or today, or a time such as 2026-05-01T12:00") from None
