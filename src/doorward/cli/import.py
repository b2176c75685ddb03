# ruff: noqa: N999  (the module is named as the command is, and import_module finds it)
"""`doorward import`: knockd.conf to doorward's own file."""

from __future__ import annotations

import argparse
import socket
import sys
from pathlib import Path

from doorward.config.convert import convert
from doorward.config.knockd import parse
from doorward.errors import HostError, UsageError
from doorward.model import Protocol

MAX_BYTES = 16 << 20

EXAMPLE = """\
  $ doorward import /etc/knockd.conf -o doorward.toml
  doorward import: check: door 'openSSH': stayed open until it was closed …
  $ doorward check -c doorward.toml
what to check is said on standard error, and stands in the new file as comments
exit status: 0 done, 2 the file is wrong, or the new one exists already"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's words."""
    parser.add_argument("file", metavar="FILE", type=Path, help="knockd's configuration, such as /etc/knockd.conf")
    parser.add_argument(
        "-o", "--output", metavar="FILE", type=Path, help="a new file for the result (default: standard output)"
    )


def run(args: argparse.Namespace) -> int:
    """Print the same doors as doorward.toml."""
    converted = convert(parse(_read(args.file), str(args.file)), str(args.file), _service)
    if args.output is None:
        sys.stdout.write(converted.toml)
        sys.stdout.flush()
    else:
        _write_new(args.output, converted.toml)
    sys.stderr.writelines(f"doorward import: {note}\n" for note in converted.notes)
    return 0


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{path}: it cannot be read ({error.strerror}); name knockd's configuration") from None
    if len(raw) > MAX_BYTES:
        raise UsageError(f"{path}: it is larger than {MAX_BYTES >> 20} MiB; name knockd's configuration")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:  # knockd reads bytes; an old file may hold Latin-1
        return raw.decode("latin-1")


def _write_new(path: Path, text: str) -> None:
    try:
        with path.open("x", encoding="utf-8") as file:
            path.chmod(0o600)  # the sequences are secrets
            file.write(text)
    except FileExistsError:
        raise UsageError(f"{path}: it exists, and nothing is written over a file; name another with -o") from None
    except OSError as error:
        raise HostError(f"{path}: it cannot be written ({error.strerror}); name another with -o") from None


def _service(name: str, protocol: Protocol) -> int | None:
    try:
        return socket.getservbyname(name, protocol.name.lower())
    except OSError:
        return None
