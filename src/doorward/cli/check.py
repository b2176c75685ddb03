"""`doorward check`: validate the configuration and rate its strength."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from doorward.cli import output
from doorward.cli.options import add_config, configuration_path
from doorward.cli.output import LevelPrinter
from doorward.client.hosts import suggestion
from doorward.config.files import exposure, read_text, trusted_owners
from doorward.config.schema import Configuration
from doorward.config.toml import parse
from doorward.config.toml_positions import Keys, find_lines, line_of
from doorward.daemon import host_lookups, last_good, requirements
from doorward.daemon.control_client import ask, default_path
from doorward.daemon.run_as import named_files
from doorward.errors import ConfigError, ConfigFault, DoorwardError, HostError
from doorward.lint.checks import combinations, warnings
from doorward.lint.finding import Finding
from doorward.lint.guessing import Guess
from doorward.lint.host_checks import host_findings
from doorward.lint.sequences import guesses
from doorward.model import Port

_PATIENCE_S, _POLL_S = 60.0, 0.1  # loading a million doors takes a while

EXAMPLE = """\
  $ doorward check -c doorward.toml
  doorward.toml:6: warning: door 'web' has 2 knocks: guessing ports from …
  doorward.toml: good: 2 doors, 1 automaton, mode stealth; 1 warning
exit status: 0 valid, possibly with warnings; 2 invalid"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command-line arguments."""
    add_config(parser)
    parser.add_argument("-v", "--verbose", action="store_true", help="also print notes, which a good file may have")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    output.add_color(parser)
    parser.add_argument(
        "--keep", action="store_true", help="as root: save the file as the last good copy, if the daemon runs with it"
    )


def run(args: argparse.Namespace) -> int:
    """Print errors and weaknesses; return 2 if there are errors."""
    path = configuration_path(args)
    configuration, faults, findings = None, list[ConfigFault](), list[Finding]()
    try:
        text = read_text(path, trusted_owners())
        configuration = parse(text, str(path))
        lines = find_lines(text)
        host = host_lookups.look(configuration)
        findings = warnings(configuration, lines) + host_findings(configuration, lines, host)
        if any(door.knock for door in configuration.doors) and (exposed := exposure(path)):
            findings.insert(0, Finding(exposed.code, "warning", 1, exposed.fault, exposed.remedy))
        remarks = [
            *_unmet_requirements(configuration, lines, path, host.bound),
            *_unreadable(path),
            *_key_findings(configuration, path),
        ]
        faults += [remark for remark in remarks if isinstance(remark, ConfigFault)]
        findings += [remark for remark in remarks if isinstance(remark, Finding)]
    except ConfigError as error:
        faults = error.faults
    findings.sort(key=lambda finding: (finding.level == "note", finding.file or "", finding.line))
    if args.keep and not faults:
        _save_last_good(path.absolute())
        return 0
    if args.json:
        _print_json(str(path), configuration, faults, findings)
    else:
        shown = [finding for finding in findings if args.verbose or finding.level == "warning"]
        _print_lines(args.color, str(path), configuration, faults, shown)
    return 2 if faults else 0


def _unmet_requirements(
    configuration: Configuration, lines: Mapping[Keys, int], path: Path, bound: frozenset[Port]
) -> Iterator[ConfigFault]:
    """Yield what makes `doorward run` reject a valid file on this host; `bound`: signed ports that others use."""
    held = frozenset(configuration.signed_ports) - bound
    for keys, check in requirements.of(configuration, path.absolute().parent, held):
        try:
            check()
        except ConfigError as error:
            yield from error.faults
        except DoorwardError as error:
            what, _, instead = str(error).rpartition("; ")
            yield ConfigFault(error.code, str(path), line_of(lines, keys), what, instead)


def _unreadable(path: Path) -> Iterator[ConfigFault | Finding]:
    """Yield a finding for each file that the unit's user cannot read: with it the service does not start."""
    user, files = host_lookups.unreadable([path, *named_files(path)])
    for file in files:
        what = f"the user {user} cannot read {file}"
        remedy = f"run `chgrp {user} {file}; chmod g+r {file}`"
        if host_lookups.runs_as_unit():
            yield ConfigFault(
                "unreadable-for-service", str(path), 1, f"{what}, so doorward.service cannot start", remedy
            )
        else:
            yield Finding(
                "unreadable-for-service", "warning", 1, f"{what}, so the daemon would keep running as root", remedy
            )


def _save_last_good(config: Path) -> None:
    """Save the file as the last good copy, once the daemon has finished loading."""
    until_s = time.monotonic() + _PATIENCE_S
    while (status := ask(default_path(), {"command": "status"}))["is_loading"] and time.monotonic() < until_s:
        time.sleep(_POLL_S)
    if os.geteuid() != 0:
        raise HostError("needs-root", "--keep needs root, who owns the last good copy")
    last_good.keep(config, status["digest"])


def _key_findings(configuration: Configuration, path: Path) -> Iterator[ConfigFault | Finding]:
    """Yield the faults of authorized_keys and of fwknop's keys, and remarks on what authorized keys may do."""
    if configuration.signed is None:
        return
    from doorward.daemon.key_files import keys_path, read_authorized_keys, read_fwknop_keys
    from doorward.lint import checks

    keys_file = keys_path(configuration.signed, path.parent)
    with suppress(DoorwardError):  # reported with the other faults
        keys, faults = read_authorized_keys(keys_file)
        yield from faults
        yield from _unknown_doors(configuration, keys.door_names(), str(keys_file))
        yield from checks.authorized_keys_findings(keys, len(configuration.doors))
    if configuration.fwknop is not None:
        with suppress(DoorwardError):
            yield from read_fwknop_keys(configuration, configuration.fwknop, path.parent)[1]


def _unknown_doors(configuration: Configuration, named: Iterable[tuple[str, int]], file: str) -> Iterator[ConfigFault]:
    doors = {door.name for door in configuration.doors}
    for name, line in named:
        if name not in doors:
            yield ConfigFault(
                "unknown-door", file, line, f"unknown door {name!r}", suggestion(name, doors) or "remove it"
            )


def _print_json(
    file: str, configuration: Configuration | None, faults: list[ConfigFault], findings: list[Finding]
) -> None:
    answer = {
        "file": file,
        "ok": not faults,
        "doors": len(configuration.doors) if configuration else 0,
        "faults": [
            {"code": fault.code, "line": fault.line, "what": fault.what, "instead": fault.instead} for fault in faults
        ],
        "warnings": [{**asdict(finding), "file": finding.file or file} for finding in findings],
        "strength": [_strength(rated) for rated in guesses(configuration)] if configuration else [],
    }
    output.as_json(answer)


def _strength(rated: Guess) -> dict[str, object]:
    """Return the probability that guessing opens a door within a year, from one address and from many."""
    return {
        "door": rated.door,
        "knocks": rated.knocks,
        "ports": rated.ports,
        "one_source": rated.by_one_source,
        "many_sources": rated.by_many_sources,
    }


def _print_lines(
    color: str, file: str, configuration: Configuration | None, faults: list[ConfigFault], findings: list[Finding]
) -> None:
    errors, printer = LevelPrinter(color, sys.stderr), LevelPrinter(color)
    for fault in faults:
        errors.line(f"{fault.file}:{fault.line}: ", ("error", "error:"), f" {fault.what}; {fault.instead}")
    for finding in findings:
        place, level = f"{finding.file or file}:{finding.line}: ", (finding.level, f"{finding.level}:")
        errors.line(place, level, f" {finding.what}; {finding.remedy}")
    if faults or configuration is None:
        printer.line(f"{file}: ", ("error", "invalid:"), f" {_counts([*faults, *findings])}")
    else:
        printer.line(f"{file}: ", ("good", "good:"), f" {_summary(configuration, findings)}")


def _summary(configuration: Configuration, findings: list[Finding]) -> str:
    automata = len(combinations(configuration))
    facts = [
        _count(len(configuration.doors), "door", "doors"),
        *([_count(automata, "automaton", "automata")] if automata else []),
        f"mode {configuration.gate.mode}",
    ]
    return "; ".join(filter(None, (", ".join(facts), _counts(findings))))


def _counts(remarks: Iterable[ConfigFault | Finding]) -> str:
    levels = Counter("error" if isinstance(remark, ConfigFault) else remark.level for remark in remarks)
    return ", ".join(_count(levels[name], name, f"{name}s") for name in ("error", "warning", "note") if levels[name])


def _count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"
