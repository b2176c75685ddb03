"""`doorward check`: is the configuration right, and is it strong."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path

from doorward.cli.options import add_config, configuration_path
from doorward.config.chances import Guess
from doorward.config.files import exposure, read_text, trusted_owners
from doorward.config.finding import Finding
from doorward.config.lines import find_lines, line_of
from doorward.config.report import nearest
from doorward.config.schema import Configuration, Fleet, Signed
from doorward.config.sequences import guesses
from doorward.config.strength import combinations, warnings
from doorward.config.toml import parse
from doorward.errors import ConfigError, Fault, UsageError

EXAMPLE = """\
  $ doorward check -c doorward.toml
  doorward.toml:1: note: capacity 1,048,576: forged first knocks fill it from …
  doorward.toml:6: warning: door 'web' has 2 knocks: guessing ports from …
  doorward.toml: good: 2 doors, 1 automaton, mode stealth; 1 warning, 1 note
exit status: 0 the file is good, also with warnings; 2 it is not"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's words."""
    add_config(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output, nothing else")


def run(args: argparse.Namespace) -> int:
    """Say what is wrong and what is weak; 2 where something is wrong."""
    path = configuration_path(args)
    configuration, faults, findings = None, list[Fault](), list[Finding]()
    try:
        text = read_text(path, trusted_owners())
        configuration = parse(text, str(path))
        findings = warnings(configuration, find_lines(text))
        if any(door.knock for door in configuration.doors) and (exposed := exposure(path)):
            findings.insert(0, Finding("warning", 1, *exposed))
        if configuration.signed is not None:
            found = list(_signed_files(configuration, path, line_of(find_lines(text), ("signed",))))
            faults += [each for each in found if isinstance(each, Fault)]
            findings += [each for each in found if isinstance(each, Finding)]
        if configuration.fleet is not None:
            faults += _fleet_faults(configuration.fleet, path, line_of(find_lines(text), ("fleet",)))
    except ConfigError as error:
        faults = error.faults
    if args.json:
        _print_json(str(path), configuration, faults, findings)
    else:
        _print_lines(str(path), configuration, faults, findings)
    return 2 if faults else 0


def _signed_files(configuration: Configuration, path: Path, line: int) -> Iterator[Fault | Finding]:
    """Look at the server's key and at who may knock, as the daemon would, and at what the keys may do."""
    from doorward.daemon.signed_files import key_path, keys_path, read_authorized_keys, read_private_key
    from doorward.signed.limits import remarks

    signed = configuration.signed or Signed()
    for read, file in (
        (read_private_key, key_path(signed, path.parent)),
        (read_authorized_keys, keys_path(signed, path.parent)),
    ):
        try:
            found = read(file)
        except ConfigError as error:
            yield from error.faults
        except UsageError as error:
            what, _, instead = str(error).rpartition("; ")
            yield Fault(str(path), line, what, instead)
        else:
            if isinstance(found, tuple):
                keys, faults = found
                yield from faults
                yield from _unknown_doors(configuration, keys.door_names(), str(file))
                yield from remarks(keys, len(configuration.doors))


def _fleet_faults(fleet: Fleet, path: Path, line: int) -> Iterator[Fault]:
    """Look at the files that a fleet needs, as the daemon would; nobody is connected to."""
    from doorward.daemon.fleet_files import read_access

    try:
        read_access(fleet, path.parent)
    except ConfigError as error:
        yield from error.faults
    except UsageError as error:
        what, _, instead = str(error).rpartition("; ")
        yield Fault(str(path), line, what, instead)


def _unknown_doors(configuration: Configuration, named: Iterable[tuple[str, int]], file: str) -> Iterator[Fault]:
    doors = {door.name for door in configuration.doors}
    for name, line in named:
        if name not in doors:
            near = nearest(name, doors)
            yield Fault(file, line, f"there is no door {name!r}", f"did you mean {near!r}?" if near else "take it out")


def _print_json(file: str, configuration: Configuration | None, faults: list[Fault], findings: list[Finding]) -> None:
    answer = {
        "file": file,
        "ok": not faults,
        "doors": len(configuration.doors) if configuration else 0,
        "faults": [{"line": fault.line, "what": fault.what, "instead": fault.instead} for fault in faults],
        "warnings": [{**asdict(finding), "file": finding.file or file} for finding in findings],
        "strength": [_strength(rated) for rated in guesses(configuration)] if configuration else [],
    }
    sys.stdout.write(json.dumps(answer) + "\n")


def _strength(rated: Guess) -> dict[str, object]:
    """Give the chances that guessing opens a door within a year, from one address and from many."""
    return {
        "door": rated.door,
        "knocks": rated.knocks,
        "ports": rated.ports,
        "one_source": rated.by_one,
        "many_sources": rated.by_many,
    }


def _print_lines(file: str, configuration: Configuration | None, faults: list[Fault], findings: list[Finding]) -> None:
    sys.stderr.writelines(f"{fault}\n" for fault in faults)
    sys.stderr.writelines(f"{finding.file or file}:{finding}\n" for finding in findings)
    sys.stderr.flush()
    if configuration is not None and not faults:
        sys.stdout.write(f"{file}: good: {_summary(configuration, findings)}\n")


def _summary(configuration: Configuration, findings: list[Finding]) -> str:
    automata = len(combinations(configuration))
    facts = [
        _count(len(configuration.doors), "door", "doors"),
        *([_count(automata, "automaton", "automata")] if automata else []),
        f"mode {configuration.gate.mode}",
    ]
    levels = Counter(finding.level for finding in findings)
    remarks = [_count(levels[level], level, f"{level}s") for level in ("warning", "note") if levels[level]]
    return ", ".join(facts) + (f"; {', '.join(remarks)}" if remarks else "")


def _count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"
