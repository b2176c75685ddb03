"""`doorward init`: write a configuration and its key files, and print the client setup."""

from __future__ import annotations

import argparse
import secrets
import shlex
from collections.abc import Callable, Iterable
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple, TypeVar

from doorward.cli import options, qr
from doorward.cli.options import add_config, configuration_path, prompt
from doorward.cli.output import line
from doorward.client import ssh_config
from doorward.client.link_uri import format_link
from doorward.config.files import default_path, read
from doorward.config.schema import Configuration, Mode
from doorward.config.toml import parse
from doorward.doctor.host_state import collect_facts
from doorward.errors import UsageError
from doorward.init import client_setup, config_writer, install, survey
from doorward.init.config_writer import ConfigPlan, DoorSpec
from doorward.init.install import ExistingFiles
from doorward.init.survey import DEFAULT_SSH, HostSurvey
from doorward.model import DEFAULT_SIGNED_PORT, Port, Protocol
from doorward.verify.port_set import port_numbers, port_ranges

Answer = TypeVar("Answer")
_NONE = "none"


class Decision(NamedTuple):
    """The plan (still without sequences), the authorized keys, whether to add sequences, and the host's address."""

    plan: ConfigPlan
    authorized: ExistingFiles | None
    has_sequences: bool
    address: str


def decide(args: argparse.Namespace, host: HostSurvey) -> Decision:
    """Return the decision: each answer from its option, else from the survey of the host, and else by asking."""
    if not (args.yes or options.is_terminal()):
        raise UsageError(
            "not-a-terminal", "not on a terminal; add --yes, and answers as options (`doorward init --help`)"
        )
    doors = _doors(args, host)
    question = "Mode: guard hides these ports, stealth all but public ports"
    mode = _answer(args, args.mode, question, Mode.GUARD, _mode)
    if args.public is not None and mode is not Mode.STEALTH:
        raise UsageError(
            "public-needs-stealth",
            f"--public is for mode stealth, and mode {mode} leaves ports as they are; leave one of the two out",
        )
    public = _public_answer(args, host, doors) if mode is Mode.STEALTH else ()
    authorized = None if args.no_signed else _authorized_answer(args)
    address = _address_answer(args, host)
    name = config_writer.gate_name(*filter(None, (args.name, survey.host_name())))
    plan = ConfigPlan(mode, doors, public, signed=not args.no_signed, name=name)
    if (named := address.strip("[]")) != _own_address(host):
        plan = plan._replace(address=named)
    return Decision(plan, authorized, authorized is None or args.sequence, address)


def unused_options(args: argparse.Namespace) -> list[str]:
    """Return the given options that only apply to a new file."""
    options = {
        "--mode": args.mode,
        "--door": args.doors,
        "--public": args.public,
        "--sequence": args.sequence,
        "--no-signed": args.no_signed,
    }
    return [name for name, value in options.items() if value]


def _address_answer(args: argparse.Namespace, host: HostSurvey) -> str:
    """Return the name or address that clients use. Only a global address of this host is sure to be one."""
    default, own = _own_address(host), host.address()
    if args.address is None and own is not None and own.is_global:
        return default
    return _answer(args, args.address, "Name or address that clients use", default, client_setup.validate_address)


def _own_address(host: HostSurvey) -> str:
    return str(host.address() or survey.host_name())


def client_address(args: argparse.Namespace, host: HostSurvey, configuration: Configuration) -> str:
    """Return the name or address that clients use: from --address, the file, or the host's own."""
    if args.address is not None:
        return client_setup.validate_address(args.address)
    return configuration.gate.address or _own_address(host)


def _answer(
    args: argparse.Namespace, option: str | None, question: str, default: str, parse: Callable[[str], Answer]
) -> Answer:
    if option is not None or args.yes:
        return parse(default if option is None else option)
    return prompt(question, default, parse)


def _doors(args: argparse.Namespace, host: HostSurvey) -> tuple[DoorSpec, ...]:
    ssh = host.ssh_ports()
    if args.yes and not args.doors and not ssh:
        raise UsageError("no-ssh-server", "no SSH server found on this host; name what to hide: --door NAME=PORTS")
    option = " ".join(args.doors) if args.doors else str(DoorSpec("ssh", ssh)) if ssh else None
    question = "Doors, each NAME=PORTS, like db=5432/tcp, separated by spaces"
    return _answer(args, option, question, "", lambda text: config_writer.parse_doors(text.split()))


def _mode(text: str) -> Mode:
    try:
        return Mode(text)
    except ValueError:
        raise UsageError("unknown-mode", f"unknown mode {text[:40]!r}; expected one of {', '.join(Mode)}") from None


def _public_answer(args: argparse.Namespace, host: HostSurvey, doors: tuple[DoorSpec, ...]) -> tuple[Port, ...]:
    def parse(text: str) -> tuple[Port, ...]:
        public = () if text == _NONE else config_writer.parse_public(text)
        for port in public:
            if port == DEFAULT_SIGNED_PORT or any(port in door.opens for door in doors):
                raise UsageError(
                    "port-not-public",
                    f"{port} cannot be public: a door opens it, or signed knocks go there; leave it out",
                )
        return public

    default = ",".join(map(str, config_writer.public_ports(host, doors))) or _NONE
    return _answer(args, args.public, "Public ports, reachable by anyone", default, parse)


def find_own_keys(args: argparse.Namespace) -> ExistingFiles | None:
    """Return the keys of --authorized-keys, or the operator's own; None if there are none."""
    if args.authorized_keys is not None:
        return _read_keys(args.authorized_keys)
    return install.first_keys(survey.key_files())


def _authorized_answer(args: argparse.Namespace) -> ExistingFiles | None:
    """Return the keys that may send signed knocks; None if there are none yet."""
    first = find_own_keys(args)
    if first is not None or args.yes or args.authorized_keys is not None:
        return first
    return prompt("Keys that may knock: a file of SSH public keys, or none", _NONE, _read_keys)


def _read_keys(text: str) -> ExistingFiles | None:
    if text == _NONE:
        return None
    keys = install.read_keys(Path(text).expanduser().absolute())
    if not keys.lines:
        raise UsageError("no-usable-key", f"{keys.path}: contains no key for signed knocks; name another file")
    return keys


_TRIAL = "5m"
_ENDS = "reverts unless confirmed"
_ENABLE = "systemctl enable --now doorward-gate doorward"
_WITH_SEQUENCE = "keep it secret: it contains a port sequence, and anyone who knows it can knock"
_WITH_KEY = "not secret: with the server's public key alone nobody can open a door"
_UNITS = [Path(directory, "doorward.service") for directory in ("/etc/systemd/system", "/usr/lib/systemd/system")]


def print_plan(host: HostSurvey) -> None:
    """Print the listening services and the host's addresses."""
    session = host.session.destination_port if host.session is not None else 0
    line("this host, as others reach it:")
    for port, program in host.services:
        is_way_in = port.protocol is Protocol.TCP and port.number == session
        line(f"  {port!s:<10} {program:<16}{'you are logged in through it' if is_way_in else ''}".rstrip())
    if not host.services:
        line("  no service is listening")
    for local in host.network.locals:
        if local.is_external:
            line(f"  {local.interface:<10} {local.address.ip}")
    line("")


def print_client_setup(configuration: Configuration, directory: Path, address: str, name: str, *, as_qr: bool) -> None:
    """Print the client setup: the `doorward add` command with the link, and what it writes."""
    key = install.authorized_key_line(configuration, directory)
    doors, others = client_setup.shareable_doors(configuration, signed=key is not None)
    if not doors:
        line(
            "",
            "no client can knock yet: add public keys to authorized_keys, or a `knock` to a door, and run this",
            "again",
        )
        return
    link = client_setup.knock_link(configuration, key, address, doors)
    text = format_link(link)
    line("", f"on each client ({_WITH_SEQUENCE if any(ports for _, ports in link.doors) else _WITH_KEY}):", "")
    knocks = ssh_port(configuration) is not None
    line(f"  doorward add {shlex.quote(text)} --name {shlex.quote(name)}{' --ssh' if knocks else ''}")
    effect = f"makes `ssh {name}` knock first, and " if knocks else ""
    line("", f"which {effect}adds to ~/.config/doorward/hosts.toml:", "")
    for row in client_setup.hosts_table(name, link).splitlines():
        line(f"  {row}")
    if _is_private(address):
        line("", f"{address} is a private address: for clients elsewhere run this with --address")
    if configuration.signed is not None and key is None:
        authorized_keys = install.authorized_keys_path(configuration, directory)
        line("", f"no key may send signed knocks yet: add public keys to {authorized_keys}, and run this again")
    if others:
        line("", f"{others:,} more doors do not fit in the link; run `doorward share DOOR` for each")
    if as_qr:
        line("")
        qr.draw(text)


def _is_private(address: str) -> bool:
    try:
        return not ip_address(address).is_global
    except ValueError:  # a name
        return False


def print_next_steps(configuration: Configuration, path: Path, name: str, public: Iterable[Port]) -> None:
    """Print the next three commands, and the `doorward verify` call; `public` are the ports it expects to answer."""
    is_usual = path == default_path().absolute()
    where = "" if is_usual else f" -c {shlex.quote(str(path))}"
    has_units = is_usual and any(unit.exists() for unit in _UNITS)
    door, quoted_name = configuration.doors[0], shlex.quote(name)
    port = next((port.number for port in door.opens if port.protocol is Protocol.TCP), None)
    steps = {f"doorward doctor{where}": "find lock-out risks and conflicting rules"}
    steps |= {_ENABLE: "now, and at every boot"} if has_units else {f"doorward run --trial {_TRIAL}{where}": _ENDS}
    ssh = ssh_port(configuration) if has_units else None
    knock = f"doorward knock {quoted_name} {door.name}" + (f" --wait {port}" if port else "")
    steps[_ssh_command(quoted_name, ssh) if ssh else knock] = "on the client"
    width = max(map(len, steps))
    line("", "next:", "")
    for command, remark in steps.items():
        line(f"  {command:<{width}}  # {remark}")
    if has_units:
        line("", "Stay logged in here until that has worked: established connections stay open. Or try it first:")
        line(f"`doorward run --trial {_TRIAL}` instead of the second command {_ENDS}.")
    else:
        line("", "If the knock lets you in, run `doorward confirm` there.")
    if configuration.gate.mode is not Mode.OBSERVE:
        options = f" --port {port}" if port else ""
        options += " --guard" if configuration.gate.mode is Mode.GUARD else ""
        seen = ",".join(port_ranges(port_numbers(public, Protocol.TCP)))
        options += f" --expect {seen}" if seen else ""
        line(f"To see what others see, from the client: doorward verify {quoted_name} {door.name}{options}")


def ssh_port(configuration: Configuration) -> int | None:
    """Return the port of the door that `doorward proxy` chooses for SSH, or None."""
    for door in configuration.doors:
        is_named = door.name == "ssh" or (len(configuration.doors) == 1 and DEFAULT_SSH in door.opens)
        if is_named and (port := next((port for port in door.opens if port.protocol is Protocol.TCP), None)):
            return port.number
    return None


def _ssh_command(name: str, port: int) -> str:
    return f"ssh {name}" if port == DEFAULT_SSH.number else f"ssh -p {port} {name}"


EXAMPLE = """\
  # doorward init          # asks what it cannot find out
  # doorward init --yes    # no questions: SSH's port, mode guard, your SSH keys
  # doorward init --yes --mode stealth --door ssh=22 --door db=5432/tcp
nothing is overwritten: run again, it prints the client setup again"""
_NOBODY = f"{install.AUTHORIZED_KEYS_HEADER}# No keys yet. A client's public key is in its ~/.ssh/id_*.pub.\n"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command-line arguments."""
    add_config(parser)
    parser.add_argument("-y", "--yes", action="store_true", help="ask nothing")
    parser.add_argument("--mode", choices=list(map(str, Mode)), help="what is hidden (default: guard)")
    parser.add_argument(
        "--door",
        metavar="NAME=PORTS",
        dest="doors",
        action="append",
        help="a door and its ports: db=5432/tcp (may be repeated; default: ssh, with its port)",
    )
    parser.add_argument("--public", metavar="PORTS", help="with stealth: public ports (default: those in use now)")
    ways = parser.add_mutually_exclusive_group()
    ways.add_argument(
        "--sequence",
        action="store_true",
        help="also let a port sequence open the doors (default: only without SSH keys)",
    )
    ways.add_argument("--no-signed", action="store_true", help="sequences only")
    parser.add_argument(
        "--authorized-keys", metavar="FILE", help="keys that may send signed knocks (default: your own), or none"
    )
    parser.add_argument("--address", metavar="ADDRESS", help="name or address that clients use")
    parser.add_argument(
        "--name", metavar="NAME", help="what clients call it, and the gate's name (default: its host name)"
    )
    parser.add_argument("--qr", action="store_true", help="also show the link as a QR code")


def run(args: argparse.Namespace) -> int:
    """Write the missing files, and print the client setup and the next steps."""
    path = configuration_path(args).absolute()
    host = survey.survey_host()
    earlier = read(path) if path.exists() else None
    name = args.name or (earlier and earlier.gate.name) or survey.host_name()
    if not ssh_config.takes(name):
        raise UsageError(
            "invalid-ssh-name",
            f"--name: {name[:40]!r} means something else to ssh; take a name of letters, digits, - and dots",
        )
    if earlier is not None:
        configuration, address = earlier, client_address(args, host, earlier)
        line(f"{path} already exists and is left unchanged")
        if unused := unused_options(args):
            line(f"{', '.join(unused)}: for a new file only; edit this one, or move it away")
        _write_signed(configuration, path, None if configuration.signed is None else find_own_keys(args))
    else:
        configuration, address = _create(args, host, path)
    print_client_setup(configuration, path.parent, address, name, as_qr=args.qr)
    print_next_steps(configuration, path, name, _reachable_ports(configuration, host))
    return 0


def _reachable_ports(configuration: Configuration, host: HostSurvey) -> tuple[Port, ...]:
    """Return the ports that anyone may reach."""
    if configuration.gate.mode is Mode.STEALTH:
        return configuration.gate.public
    return config_writer.public_ports(host, [DoorSpec(door.name, door.opens) for door in configuration.doors])


def _create(args: argparse.Namespace, host: HostSurvey, path: Path) -> tuple[Configuration, str]:
    """Ask, choose and write; return the configuration and the address that clients use."""
    print_plan(host)
    plan, authorized, has_sequences, address = decide(args, host)
    if has_sequences:
        plan = config_writer.with_sequences(plan, host, secrets.randbelow)
    programs = {service.port: service.program for service in host.services}
    plan, configuration = _with_accept_mark(plan, path, programs)
    _write_signed(configuration, path, authorized)
    if not install.write(path, config_writer.config_text(plan, programs)):
        raise UsageError("file-appeared", f"{path} was created by another process in the meantime; run this again")
    line(f"wrote {path}: mode {plan.mode}, doors {', '.join(map(str, plan.doors))}")
    return configuration, address


def _with_accept_mark(plan: ConfigPlan, path: Path, programs: dict[Port, str]) -> tuple[ConfigPlan, Configuration]:
    """Return the plan and its configuration, with an accept mark if another firewall would drop the connections."""
    configuration = parse(config_writer.config_text(plan, programs), str(path))
    facts = collect_facts(replace(configuration, signed=None), path.parent)  # its files do not exist yet
    mark = config_writer.accept_mark_for(configuration, facts)
    if mark is None:
        return plan, configuration
    names = ", ".join(facts.trace.tables)
    line(f"another firewall ({names}) would drop these connections: accepted packets get the")
    line(f"mark {mark}; `doorward doctor` prints the rule that it needs", "")
    plan = plan._replace(accept_mark=mark)
    return plan, parse(config_writer.config_text(plan, programs), str(path))


def _write_signed(configuration: Configuration, path: Path, authorized: ExistingFiles | None) -> None:
    for fault in authorized.faults if authorized is not None else ():
        line(f"left out: {fault}")
    for file in install.write_signed(configuration, path.parent, _NOBODY if authorized is None else authorized.text):
        line(f"wrote {file}")
        if authorized is not None and file == install.authorized_keys_path(configuration, path.parent):
            line(f"  the keys in it are those of {authorized.path}")
