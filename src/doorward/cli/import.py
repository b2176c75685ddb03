# ruff: noqa: N999  (the module is named as the command is, and import_module finds it)
"""`doorward import`: convert knockd.conf or fwknop's access.conf to doorward.toml."""

from __future__ import annotations

import argparse
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from doorward.cli import output
from doorward.config import knockd
from doorward.config.schema import FWKNOP_KEYS
from doorward.errors import UsageError
from doorward.importer import from_fwknop, from_knockd, fwknop_conf
from doorward.importer.dialect import Dialect, detect_dialect
from doorward.importer.from_knockd import Converted
from doorward.init.install import write
from doorward.model import Port, Protocol

MAX_BYTES = 16 << 20

EXAMPLE = """\
  $ doorward import /etc/knockd.conf -o doorward.toml
  …
  doorward import: check: door 'openSSH': stayed open until something …
  …
  $ doorward check -c doorward.toml
  …
  doorward.toml: good: 2 doors, 1 automaton, mode guard; …
  $ doorward import /etc/fwknop/access.conf -o fwknop.toml
  …
  doorward import: check: stanza 'ssh': the stanza of line 12; …
  …
what to check is printed to standard error, and written to the file as comments"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command-line arguments."""
    parser.add_argument("file", metavar="FILE", type=Path, help="/etc/knockd.conf, or /etc/fwknop/access.conf")
    parser.add_argument(
        "--from", dest="dialect", choices=list(Dialect), help="the program that it configures (default: detected)"
    )
    parser.add_argument(
        "-o", "--output", metavar="FILE", type=Path, help="write to a new file (default: standard output)"
    )


def run(args: argparse.Namespace) -> int:
    """Convert the file, print or write the result, and print notes to standard error."""
    converted = _convert(*_read(args.file), args.file, args.dialect)
    if args.output is None:
        output.line(*converted.toml.removesuffix("\n").split("\n"))
        sys.stdout.flush()
        if converted.keys:
            output.error_line("doorward import: check: the shared keys are written with -o FILE only")
    else:
        keys = args.output.parent / FWKNOP_KEYS
        if args.output.name == FWKNOP_KEYS:
            raise UsageError(
                "output-is-keys", f"{keys}: the shared keys are written there; choose another name with -o"
            )
        shared = [(keys, converted.keys.decode())] if converted.keys else []
        _write_new([*shared, (args.output, converted.toml)])
        if converted.keys:
            output.error_line(f"doorward import: the shared keys are in {keys}: keep it with the configuration")
    output.error_line(*(f"doorward import: {note}" for note in converted.notes))
    return 0


def _write_new(files: Sequence[tuple[Path, str]]) -> None:
    """Write files for root and the daemon's group only: sequences and keys are secrets. If one exists, write none."""
    existing = [path for path, _ in files if os.path.lexists(path)]
    existing = existing or [path for path, text in files if not write(path, text)]
    if existing:
        what = "already exists and is not overwritten; move it away, or choose another directory with -o"
        raise UsageError("file-exists", f"{existing[0]}: {what}")


def _convert(text: str, encoding: str, path: Path, chosen: str | None) -> Converted:
    file, dialect = str(path), chosen or detect_dialect(text)
    if dialect is None:
        raise UsageError(
            "unknown-format", f"{path}: neither a knockd.conf nor an access.conf; name the right file, or use --from"
        )
    if dialect == Dialect.KNOCKD:
        return from_knockd.convert(knockd.parse(text, file), file, _service)
    return from_fwknop.convert(fwknop_conf.parse(text, file, encoding), file, _service, _port_name)


def _read(path: Path) -> tuple[str, str]:
    """Return the text of a file, and its encoding."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(
            "unreadable-file", f"{path}: cannot be read ({error.strerror}); name the old configuration"
        ) from None
    if len(raw) > MAX_BYTES:
        raise UsageError("file-too-large", f"{path}: larger than {MAX_BYTES >> 20} MiB; name the old configuration")
    try:
        return raw.decode("utf-8-sig"), "utf-8"
    except UnicodeDecodeError:  # both programs read bytes; an old file may be Latin-1
        return raw.decode("latin-1"), "latin-1"


def _service(name: str, protocol: Protocol) -> int | None:
    try:
        return socket.getservbyname(name, protocol.name.lower())
    except OSError:
        return None


def _port_name(port: Port) -> str | None:
    try:
        return socket.getservbyport(port.number, port.protocol.name.lower())
    except OSError:
        return None
