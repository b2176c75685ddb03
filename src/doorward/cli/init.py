"""`doorward init`: a first configuration, its files, and what clients need of it."""

from __future__ import annotations

import argparse
import secrets
from dataclasses import replace
from pathlib import Path

from doorward.cli import deciding, telling
from doorward.cli.options import add_config, configuration_path
from doorward.cli.render import line
from doorward.client import ssh_config
from doorward.config.files import read
from doorward.config.schema import Configuration, Mode
from doorward.config.toml import parse
from doorward.doctor.facts import gather
from doorward.errors import UsageError
from doorward.model import Port
from doorward.setup import files, host, keys, marks, planning
from doorward.setup.host import Host
from doorward.setup.keys import Found
from doorward.setup.planning import Plan, Wanted

EXAMPLE = """\
  # doorward init          # asks, and Enter takes what stands in brackets
  # doorward init --yes    # asks nothing: SSH's port, mode guard, your SSH keys
  # doorward init --yes --mode stealth --door ssh=22 --door db=5432/tcp
nothing is overwritten: called again, it prints what clients need once more"""
_NOBODY = f"{keys.HEAD}# Nobody yet. The key of a client stands in its ~/.ssh/id_*.pub.\n"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's words."""
    add_config(parser)
    parser.add_argument("-y", "--yes", action="store_true", help="ask nothing")
    parser.add_argument("--mode", choices=list(map(str, Mode)), help="what is hidden (default: guard)")
    parser.add_argument(
        "--door",
        metavar="NAME=PORTS",
        dest="doors",
        action="append",
        help="a door, and what it opens: db=5432/tcp (may be repeated; default: ssh, with its port)",
    )
    parser.add_argument("--public", metavar="PORTS", help="with stealth: for everybody (default: what listens now)")
    ways = parser.add_mutually_exclusive_group()
    ways.add_argument(
        "--sequence",
        action="store_true",
        help="let a port sequence open the doors too (default: only where there is no SSH key)",
    )
    ways.add_argument("--no-signed", action="store_true", help="sequences only")
    parser.add_argument(
        "--authorized-keys", metavar="FILE", help="who may send signed knocks (default: your own keys), or none"
    )
    parser.add_argument("--address", metavar="ADDRESS", help="what clients reach this host by: a name, an address")
    parser.add_argument(
        "--name", metavar="NAME", help="what clients call it, and the gate's name (default: the host's own)"
    )
    parser.add_argument("--qr", action="store_true", help="show the link also as a QR code")


def run(args: argparse.Namespace) -> int:
    """Write what is missing, and print what clients need."""
    path = configuration_path(args).absolute()
    here = host.look()
    name = args.name or host.host_name()
    if not ssh_config.takes(name):
        raise UsageError(
            f"--name: {name[:40]!r} means something else to ssh; take a name of letters, digits, - and dots"
        )
    if path.exists():
        configuration, address = read(path), deciding.address_of(args, here)
        line(f"{path} is there already, and stays as it is")
        if unused := deciding.unused(args):
            line(f"{', '.join(unused)}: for a new file only; edit this one, or move it away")
        _write_signed(configuration, path, None if configuration.signed is None else deciding.own_keys(args))
    else:
        configuration, address = _make(args, here, path)
    telling.tell_clients(configuration, path.parent, address, name, as_qr=args.qr)
    telling.tell_next(configuration, path, name, _public(configuration, here))
    return 0


def _public(configuration: Configuration, here: Host) -> tuple[Port, ...]:
    """Give the ports that strangers see, as they are meant to."""
    if configuration.gate.mode is Mode.STEALTH:
        return configuration.gate.public
    return planning.public_of(here, [Wanted(door.name, door.opens) for door in configuration.doors])


def _make(args: argparse.Namespace, here: Host, path: Path) -> tuple[Configuration, str]:
    """Ask, choose and write; gives the configuration, and the address that clients use."""
    telling.describe(here)
    plan, who, has_sequences, address = deciding.decide(args, here)
    if has_sequences:
        plan = planning.with_sequences(plan, here, secrets.randbelow)
    programs = {service.port: service.program for service in here.services}
    plan, configuration = _beside_firewalls(plan, path, programs)
    _write_signed(configuration, path, who)
    if not files.write(path, planning.text_of(plan, programs)):
        raise UsageError(f"{path} was written by somebody else in the meantime; call this again")
    line(f"wrote {path}: mode {plan.mode}, doors {', '.join(map(str, plan.doors))}")
    return configuration, address


def _beside_firewalls(plan: Plan, path: Path, programs: dict[Port, str]) -> tuple[Plan, Configuration]:
    """Look at other firewalls, and mark what is open where one of them must be told."""
    configuration = parse(planning.text_of(plan, programs), str(path))
    facts = gather(replace(configuration, signed=None), path.parent)  # its files are not there yet
    mark = marks.mark_for(configuration, facts)
    if mark is None:
        return plan, configuration
    line(f"another firewall drops what doors are to open ({', '.join(marks.names(facts))}): what is open gets the mark")
    line(f"{mark}, and `doorward doctor` says how that firewall learns of it", "")
    plan = plan._replace(accept_mark=mark)
    return plan, parse(planning.text_of(plan, programs), str(path))


def _write_signed(configuration: Configuration, path: Path, who: Found | None) -> None:
    for fault in who.faults if who is not None else ():
        line(f"left out: {fault}")
    for made in files.write_signed(configuration, path.parent, _NOBODY if who is None else who.text):
        line(f"wrote {made}")
