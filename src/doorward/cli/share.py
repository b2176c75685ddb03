"""`doorward share`: print one door of this host for another device: a link, its QR code, or an app's import file."""

from __future__ import annotations

import argparse
import json

from doorward.cli import qr
from doorward.cli.options import add_config, configuration_path
from doorward.cli.output import line
from doorward.client.hosts import suggestion
from doorward.client.link_uri import format_link
from doorward.config.files import read
from doorward.config.schema import Configuration
from doorward.errors import UsageError
from doorward.init import client_setup, install, survey
from doorward.model import Door

EXAMPLE = """\
  # doorward share ssh --format qr                        # for a camera
  # doorward share ssh --format knockonports > ssh.json   # for the Android app
  # doorward share ssh --host server.example              # the link alone
what contains a sequence is secret: send it through a private channel"""
FORMATS = {
    "doorward": "a doorward:// link",
    "qr": "the link, and its QR code",
    "knockonports": "JSON that the Android app Knock on Ports imports",
    "knockd": "a section of knockd.conf, which the app imports too",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command-line arguments."""
    parser.add_argument("door", metavar="DOOR", help="a door of the configuration")
    known = "; ".join(f"{name}: {what}" for name, what in FORMATS.items())
    parser.add_argument("--format", metavar="FORMAT", choices=list(FORMATS), default="doorward", help=known)
    parser.add_argument("--host", metavar="ADDRESS", help="name or address that clients use (default: this host's own)")
    add_config(parser)


def run(args: argparse.Namespace) -> int:
    """Print the door in the requested format."""
    path = configuration_path(args)
    configuration = read(path)
    door = _door(configuration, args.door, str(path))
    address = _address(args.host, door)
    if args.format == "knockonports":
        line(*json.dumps(client_setup.knock_on_ports(door, address), indent=2, ensure_ascii=False).split("\n"))
    elif args.format == "knockd":
        line(*client_setup.knockd_stanza(door, address).removesuffix("\n").split("\n"))
    else:
        key = install.authorized_key_line(configuration, path.absolute().parent)
        _require_shareable(door, key)
        link = format_link(client_setup.knock_link(configuration, key, address, [door]))
        (qr.show if args.format == "qr" else line)(link)
    return 0


def _door(configuration: Configuration, name: str, file: str) -> Door:
    doors = {door.name: door for door in configuration.doors}
    if name not in doors:
        hint = suggestion(name, doors) or f"its doors are {', '.join(list(doors)[:10])}"
        raise UsageError("unknown-door", f"{file}: unknown door {name!r}; {hint}")
    return doors[name]


def _address(given: str | None, door: Door) -> str:
    if given is not None:
        return client_setup.validate_address(given)
    if door.target is not None:
        return str(door.target)
    return str(survey.survey_host().address() or survey.host_name())


def _require_shareable(door: Door, key: str | None) -> None:
    if client_setup.is_shareable(door, signed=key is not None):
        return
    if door.target is not None:
        raise UsageError(
            "door-has-target",
            f"door {door.name!r} listens for {door.target}; share it with --format knockonports or knockd",
        )
    if door.knock:
        raise UsageError(
            "door-needs-flags",
            f"door {door.name!r}: its `flags` ({door.flags}) do not match a plain SYN, and clients send nothing else",
        )
    raise UsageError(
        "door-not-shareable",
        f"door {door.name!r} has no sequence, and no key may send signed knocks; add [signed] and public keys in "
        "its authorized_keys, or a `knock`",
    )
