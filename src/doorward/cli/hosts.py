"""`doorward hosts`: list the servers that this client knows."""

from __future__ import annotations

import argparse

from doorward.cli import output
from doorward.client.hosts import KnownHost, hosts_path, read_hosts

EXAMPLE = """\
  $ doorward hosts
  name  address         knock         doors
  home  server.example  signed knock  ssh
reads hosts.toml; `doorward add` and `doorward remove` change it"""


def add_arguments(_: argparse.ArgumentParser) -> None:
    """Declare the command-line arguments."""


def run(_: argparse.Namespace) -> int:
    """Print a row for each host, by name."""
    hosts = read_hosts(hosts_path())
    if not hosts:
        output.line("no server is known; add one with the line that `doorward init` prints on it")
        return 0
    output.table(("name", "address", "knock", "doors"), [_row(hosts[name]) for name in sorted(hosts)])
    return 0


def _row(host: KnownHost) -> tuple[str, ...]:
    knock = "port sequence" if host.server_key is None else "signed knock"
    return host.name, host.address, knock, ", ".join(host.doors)
