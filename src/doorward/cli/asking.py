"""Questions on the terminal, each with an answer that Enter takes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeVar

from doorward.cli.render import line
from doorward.errors import DoorwardError, UsageError

Answer = TypeVar("Answer")


def is_terminal() -> bool:
    """Tell whether there is somebody to ask."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def ask(question: str, default: str, parse: Callable[[str], Answer]) -> Answer:
    """Ask until the answer can be read; Enter takes the default. UsageError: the input has ended."""
    prompt = f"{question} [{default}]: " if default else f"{question}: "
    while True:
        try:
            text = input(prompt).strip()
        except EOFError:
            line("")
            raise UsageError("the answers have ended; with --yes nothing is asked") from None
        try:
            return parse(text or default)
        except DoorwardError as error:
            line(f"  {error}")
