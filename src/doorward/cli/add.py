"""`doorward add`: add a server to the client's hosts.toml, from its key or from a link, and show its link."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

from doorward.cli import qr
from doorward.cli.knock_options import add_signed_options, read_option
from doorward.cli.output import line
from doorward.client import request_options, ssh_config
from doorward.client.hosts import find_host, hosts_path, read_hosts
from doorward.client.hosts_writer import HostValue, host_table, save_host
from doorward.client.link_uri import SCHEME, KnockLink, format_link, parse_link, parse_sequence, unless_default
from doorward.errors import MalformedError, UsageError
from doorward.model import NAME, Port

EXAMPLE = """\
  $ doorward add home --address server.example --server-key x25519:… --door ssh
  $ doorward add 'doorward://server.example/?key=…&door=ssh' --name work --ssh
  $ doorward add home --qr    # the link of a known host, for another device
"""


class _NewHost(NamedTuple):
    """A host as given on the command line; `values` are the keys of its table in hosts.toml."""

    name: str
    values: Mapping[str, HostValue]
    doors: dict[str, tuple[Port, ...]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command-line arguments."""
    parser.add_argument("host", metavar="HOST or LINK", help="name for the server, or a doorward:// link")
    parser.add_argument("--name", metavar="NAME", help="name for the server, if a link is given")
    parser.add_argument("--address", metavar="ADDRESS", help="its DNS name or address (default: HOST)")
    parser.add_argument(
        "--door",
        metavar="DOOR",
        dest="doors",
        action="append",
        default=[],
        help="a door of the server; with a sequence: ssh:7000/tcp,8000/udp (may be repeated)",
    )
    parser.add_argument("--ssh", action="store_true", help="also update ~/.ssh/config so that `ssh HOST` knocks first")
    parser.add_argument("--replace", action="store_true", help="overwrite the host if it exists")
    parser.add_argument("--qr", action="store_true", help="also print the link and its QR code")
    add_signed_options(parser.add_argument_group("signed knocks (written to hosts.toml)"))


def run(args: argparse.Namespace) -> int:
    """Add the host, or show its link, and print the next steps."""
    path = Path(hosts_path())
    new = _parse_host(args)
    if args.qr and not (new.values or new.doors):
        qr.show(_build_link(path, new.name))
        return 0
    _require_knock(new)
    ssh_config_file = Path.home() / ".ssh/config"
    with_host = partial(ssh_config.with_host, name=new.name)
    if args.ssh:
        with_host(ssh_config.read(ssh_config_file))  # a fault comes before anything is written
    backup = save_host(path, new.name, host_table(new.name, new.values, new.doors), replace=args.replace)
    line(f"added {new.name!r} to {path}" + (f"; the previous file is {backup}" if backup else ""))
    if args.ssh:
        ssh_config.edit(ssh_config_file, with_host)
    _print_next_steps(new, ssh_config_file if args.ssh else None)
    if args.qr:
        line("")
        qr.show(_build_link(path, new.name))
    return 0


def _parse_host(args: argparse.Namespace) -> _NewHost:
    link = KnockLink(args.host)
    if args.host.lower().startswith(SCHEME):
        try:
            link = parse_link(args.host)
        except MalformedError as error:
            raise UsageError(error.code, f"{error}; copy the whole link, in single quotes") from None
    elif "://" in args.host:
        raise UsageError(
            "not-a-link",
            f"{args.host[:80]!r} is not a doorward:// link; copy the line that `doorward init` or `doorward share` "
            "prints, or name the server: `doorward add NAME --address ADDRESS`",
        )
    elif args.name:
        raise UsageError("name-needs-link", "--name is for links; write the name as HOST, and add --address ADDRESS")
    name = args.name or link.host
    if not name.isprintable() or not name or len(name) > 253:
        raise UsageError("invalid-host-name", f"invalid host name {name[:40]!r}; use one like home")
    address = args.address or (link.host if link.host != name else None)
    values: dict[str, HostValue | None] = {
        "address": address,
        "server_key": _server_key(args.server_key or link.key),
        "signed_port": _signed_ports(args.signed_ports) or link.signed_ports,
        "gate": _checked_option("--gate", request_options.parse_gate, args.gate or link.gate),
        "identity": _file_option("--identity", args.identity),
        "certificate": _file_option("--certificate", args.certificate),
        "from": _checked_option("--from", request_options.parse_from, args.asked),
        "for": _checked_option("--for", request_options.parse_for_s, args.for_s),
        "confirm": args.confirm or link.confirm,
    }
    doors = dict(link.doors) | dict(map(_door, args.doors))
    return _NewHost(name, {key: value for key, value in values.items() if value}, doors)


def _require_knock(new: _NewHost) -> None:
    if "server_key" in new.values:
        return
    if not all(new.doors.values()):
        raise UsageError(
            "door-needs-key", "a door without a sequence opens with a signed knock only; add --server-key KEY"
        )
    if not new.doors:
        raise UsageError(
            "nothing-to-knock",
            "nothing to knock with; add --server-key KEY, the line that `doorward key server` prints on the server, "
            "or a sequence: --door ssh:7000/tcp,8000/udp",
        )


def _server_key(text: str | None) -> str | None:
    if text is None:
        return None
    from doorward.client.signed import read_server_key

    return str(read_server_key(text))


def _signed_ports(text: str | None) -> tuple[Port, ...]:
    return () if text is None else read_option("--signed-port", request_options.parse_signed_ports, text)


def _checked_option(option: str, parse: Callable[[str], object], text: str | None) -> str | None:
    """Return the text if `parse` accepts it. UsageError names the option."""
    if text is not None:
        read_option(option, parse, text)
    return text


def _file_option(option: str, text: str | None) -> str | None:
    """Return the absolute path: later calls run in other directories."""
    if text is None:
        return None
    path = Path(text).expanduser().absolute()
    if not path.is_file():
        raise UsageError("no-such-file", f"{option}: no such file: {path}; name the one that `ssh-keygen` created")
    return text if text.startswith("~") else str(path)


def _door(text: str) -> tuple[str, tuple[Port, ...]]:
    name, colon, ports = text.partition(":")
    if not NAME.fullmatch(name) or name.isdigit():
        raise UsageError(
            "invalid-door-name",
            f"--door: invalid door name {name[:40]!r}; use letters, digits, - and _, and not only digits",
        )
    try:
        return name, parse_sequence(ports) if colon else ()
    except MalformedError as error:
        raise UsageError(error.code, f"--door: {error}; write ssh:7000/tcp,8000/udp") from None


def _print_next_steps(new: _NewHost, ssh_config_file: Path | None) -> None:
    """Print how to try it; `ssh_config_file` is the ssh configuration file if the host was added there."""
    if ssh_config_file is not None:
        line(f"`ssh {new.name}` now knocks first: {ssh_config_file} is updated")
        return
    door = next(iter(new.doors), "ssh")
    lines = textwrap.indent(ssh_config.host_lines(new.name), "    ").rstrip()
    line("", "for ~/.ssh/config (or add it with --ssh):", "", *lines.split("\n"))
    knock = f"    doorward knock {new.name} {door} -v" + (" --wait 22" if door == "ssh" else "")
    line("", "to try it:", "", knock)


def _build_link(path: Path, name: str) -> str:
    host = find_host(str(path), read_hosts(str(path)), name)
    gate = host.gate if host.gate and NAME.fullmatch(host.gate) else None  # else it is the key's fingerprint
    ports = unless_default(host.signed_ports)
    link = KnockLink(host.address, ports, host.server_key, gate, tuple(host.doors.items()), host.confirm)
    text = format_link(link)
    try:
        parse_link(text)
    except MalformedError as error:
        raise UsageError(error.code, f"{path}: {name!r} cannot be put into a link: {error}; fix it there") from None
    return text
