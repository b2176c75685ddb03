"""Run the commands by which doctor has ufw and firewalld accept what doors open, and those that take them back."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from doorward.doctor.problem import Problem
from doorward.doctor.remedies import TAG, UFW_FILES, firewalld_removals, ufw_removals
from doorward.doctor.rulesets import find_program
from doorward.errors import DoorwardError, HostError
from doorward.kernel import atomic_file

_KEEPERS = ("sed ", "firewall-cmd ")  # what changes the rules that ufw and firewalld keep
_DIRECT_RULES = Path("/etc/firewalld/direct.xml")
_LIST_DIRECT_RULES = ("firewall-cmd", "--permanent", "--direct", "--get-all-rules")
_CHANGE = re.compile(r"^--(?:add|remove)-|^-[ID]$")
_REVERSE = {"--add-": "--remove-", "--remove-": "--add-", "-I": "-D", "-D": "-I"}
_UNCHANGED = re.compile(r"\b(?:ALREADY|NOT)_ENABLED\b")  # warnings of firewall-cmd
_PATIENCE_S = 60.0  # for a program; D-Bus gives up after 25 s
_SIGNALS = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM)


def lasting_commands(findings: Iterable[Problem]) -> list[str]:
    """Return the remedies that ufw and firewalld keep, in the order in which to run them."""
    found = [finding.commands for finding in findings if finding.code == "firewall-blocks"]
    kept = [commands for commands in found if any(command.startswith(_KEEPERS) for command in commands)]
    return list(dict.fromkeys(command for commands in kept for command in commands))


def removal_commands() -> list[str]:
    """Return the commands that take back what ufw and firewalld have of doorward. HostError: it cannot be read."""
    commands: list[str] = []
    for program, file in UFW_FILES.items():
        if f" {TAG} " in _read(Path(file)):
            commands += ufw_removals(program, _run((program, "-S")).stdout)
    if has_firewalld_rules():  # otherwise firewalld need not run, or be installed
        commands += firewalld_removals(_run(_LIST_DIRECT_RULES).stdout)
    return commands


def has_firewalld_rules() -> bool:
    """Return whether firewalld keeps rules of doorward. HostError: its file cannot be read."""
    return TAG in _read(_DIRECT_RULES)


def perform(commands: Sequence[str]) -> None:
    """Run the commands, without a shell. DoorwardError: one failed, and those before it were reverted.

    Reverting stops where it fails, too: it removes ports before the rules that close them to others.
    """
    reverts: list[Callable[[], object]] = []
    with _uninterrupted():
        try:
            for argv in [shlex.split(command) for command in commands]:
                reverts.insert(0, _perform(argv))
        except DoorwardError as error:
            try:
                for revert in reverts:
                    revert()
            except DoorwardError as left:
                remedy = "take the rest back with `doorward doctor --undo`"
                raise HostError("not-reverted", f"{error}; reverting failed, too: {left}; {remedy}") from None
            raise


def _perform(argv: Sequence[str]) -> Callable[[], object]:
    """Run a command and return what reverts it."""
    if argv[0] == "sed":
        return _edit(Path(argv[-1]), argv[2:-1])
    reverse = [_CHANGE.sub(lambda change: _REVERSE[change[0]], word) for word in argv]
    if _UNCHANGED.search(_run(argv).stderr) or reverse == argv:
        return lambda: None
    return lambda: _run(reverse)


def _edit(path: Path, scripts: Sequence[str]) -> Callable[[], object]:
    """Change a file atomically as `sed -i` with these scripts would, and return what restores it."""
    old = _read(path)
    new = _run(("sed", *scripts), old).stdout
    if not all(script.partition("/a ")[2] in new for script in scripts):
        raise HostError(
            "no-place-for-rule", f"{path}: the line `# End required lines` is missing; insert the rule by hand"
        )
    _write(path, new)
    return lambda: _write(path, old)


def _read(path: Path) -> str:
    """Return a file's text, empty if it is missing."""
    try:
        return atomic_file.read(path)
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        fault = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise HostError("unreadable-file", f"{path}: {fault}; change its rules by hand") from None


def _write(path: Path, text: str) -> None:
    try:
        atomic_file.replace(path, text.encode(), atomic_file.ownership(path))
    except OSError as error:
        raise HostError("unwritable-file", f"{path}: {error.strerror}; nothing was changed") from None


def _run(argv: Sequence[str], text: str = "") -> subprocess.CompletedProcess[str]:
    """Run a program, whose output may be anything. HostError: it failed."""
    path, fault = find_program(argv[0]), ""
    try:
        done = subprocess.run(
            [path, *argv[1:]],
            input=text,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_PATIENCE_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        fault = f"it did not end within {_PATIENCE_S:.0f} s"
    except OSError as error:
        fault = str(error.strerror)
    else:
        if done.returncode:
            fault = " ".join((done.stderr or done.stdout).split())
    if fault:
        raise HostError("program-failed", f"`{shlex.join(argv)}`: {fault}; correct that, and run doctor again")
    return done


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Hold back signals, here and in the programs: a firewall that is half changed may lock the operator out."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
