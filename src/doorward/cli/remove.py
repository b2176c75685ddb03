"""`doorward remove HOST`: forget a server, in hosts.toml and in ~/.ssh/config."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from doorward.cli.output import line
from doorward.client import ssh_config
from doorward.client.hosts import hosts_path
from doorward.client.hosts_writer import delete_host

EXAMPLE = """\
  $ doorward remove home
  removed 'home' from …/hosts.toml; the previous file is …
what `doorward add --ssh` wrote into ~/.ssh/config is removed, too"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command-line arguments."""
    parser.add_argument("host", metavar="HOST", help="its name in hosts.toml")


def run(args: argparse.Namespace) -> int:
    """Remove the host, and the lines by which `ssh HOST` knocks."""
    path, ssh_file = Path(hosts_path()), Path.home() / ".ssh/config"
    without_host = partial(ssh_config.without_host, name=args.host)
    before = ssh_config.read(ssh_file)
    backup = delete_host(path, args.host)
    line(f"removed {args.host!r} from {path}; the previous file is {backup}")
    if without_host(before) != before:
        ssh_config.edit(ssh_file, without_host)
        line(f"`ssh {args.host}` no longer knocks: {ssh_file} is updated")
    return 0
