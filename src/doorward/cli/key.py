"""`doorward key server`: print the public key for signed knocks; create the key pair if it is missing."""

from __future__ import annotations

import argparse
import os
import stat
from pathlib import Path

from doorward.cli.options import add_config, configuration_path
from doorward.cli.output import error_line, line
from doorward.config.files import read
from doorward.daemon.key_files import is_there, key_path, read_private_key
from doorward.errors import HostError, UsageError
from doorward.kernel import atomic_file
from doorward.kernel.atomic_file import FileOwnership
from doorward.kernel.privileges import service_identity
from doorward.signed.server_key import SUITES, X25519, generate_private_text

EXAMPLE = """\
  # doorward key server    # what `doorward add HOST --server-key` takes
  doorward: created /etc/doorward/server.key; keep a backup in a safe place
  x25519:mVn3Q…
an existing key is never overwritten; move its file away to create another"""
_MISSING = """\
{path}: no [signed] table, so signed knocks are off; add to it:
  [signed]
  key = "server.key"                     # made by `doorward key server`
  authorized_keys = "authorized_keys"    # who may knock: public keys, one per line"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command-line arguments."""
    parser.add_argument(
        "which",
        metavar="server",
        nargs="?",
        choices=["server"],
        default="server",
        help="the server's key (the only one)",
    )
    add_config(parser)
    suites = ", ".join(SUITES)
    parser.add_argument(
        "--suite", choices=list(SUITES), metavar="SUITE", help=f"suite of a new key: {suites} (default: {X25519.name})"
    )


def run(args: argparse.Namespace) -> int:
    """Print the public key on one line. UsageError if the existing key is of another suite than --suite."""
    config = configuration_path(args)
    configuration = read(config)
    signed, gate = configuration.signed, configuration.gate.name
    if signed is None:
        raise UsageError("no-signed-table", _MISSING.format(path=config))
    path = key_path(signed, config.parent)
    if not is_there(path):
        _create_key(path, config, generate_private_text(SUITES[args.suite or X25519.name]))
    key = read_private_key(path).public
    if args.suite and key.suite.name != args.suite:
        raise UsageError(
            "other-suite",
            f"{path}: the existing key is of suite {key.suite.name}; move it away to create another, and update "
            "every client",
        )
    if gate is not None:
        error_line(f"doorward: this gate has a name; clients need it too: `doorward add HOST … --gate {gate}`")
    line(str(key))
    return 0


def _create_key(path: Path, config: Path, text: str) -> None:
    """Write the key atomically and durably, unless another process has created it in the meantime."""
    try:
        atomic_file.make_directories(path.parent, 0o700)
        is_created = atomic_file.create(path, text, _key_ownership(path.parent.stat(), config.stat()))
    except OSError as error:
        raise HostError(
            "unwritable-file", f"{error.filename or path}: {error.strerror}; run this as a user who can write there"
        ) from None
    if is_created:
        error_line(f"doorward: created {path}; keep a backup in a safe place")


def _key_ownership(directory: os.stat_result, config: os.stat_result) -> FileOwnership:
    """Return the key's ownership: the directory's owner; readable for the daemon's group if the configuration is."""
    service = service_identity()
    if service is not None and config.st_gid == service.group and config.st_mode & stat.S_IRGRP:
        return FileOwnership(0o640, directory.st_uid, config.st_gid)
    return FileOwnership(0o600, directory.st_uid, directory.st_gid)
