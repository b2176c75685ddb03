"""`doorward share`: print doors of this host for another device: a link, its QR code, an app's file, or a page."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path

from doorward.cli import qr
from doorward.cli.options import add_config, configuration_path
from doorward.cli.output import error_line, line
from doorward.client.hosts import suggestion
from doorward.client.link_uri import format_link
from doorward.config.files import read
from doorward.config.schema import Configuration
from doorward.daemon.key_files import key_path, read_private_key
from doorward.errors import InvalidValueError, UsageError
from doorward.init import client_setup, install, survey
from doorward.model import Address, Door, parse_address
from doorward.page.share_page import PageFiles, build_page, parse_link, render
from doorward.signed.server_key import ServerKey

EXAMPLE = """\
  # doorward share ssh --format qr                        # for a camera
  # doorward share ssh --format knockonports > ssh.json   # for the Android app
  # doorward share ssh --host server.example              # the link alone
  # doorward share --page ssh --host 192.0.2.7 > knock.html # for a browser
what contains a sequence is secret: send it through a private channel"""
FORMATS = {
    "doorward": "a doorward:// link",
    "qr": "the link, and its QR code",
    "knockonports": "JSON that the Android app Knock on Ports imports",
    "knockd": "a section of knockd.conf, which the app imports too",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command-line arguments."""
    parser.add_argument(
        "doors", metavar="DOOR", nargs="*", default=[], help="a door of the configuration; --page takes several"
    )
    known = "; ".join(f"{name}: {what}" for name, what in FORMATS.items())
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--format", metavar="FORMAT", choices=list(FORMATS), default="doorward", help=known)
    form.add_argument("--page", action="store_true", help="an HTML file from which a browser sends signed knocks")
    parser.add_argument(
        "--sequence",
        action="store_true",
        help="with --page: send port sequences, not signed knocks; the page is secret",
    )
    form.add_argument(
        "--worker", action="store_true", help="the page's service worker: save it beside the page as knock-worker.js"
    )
    parser.add_argument(
        "--host",
        metavar="ADDRESS",
        nargs="+",
        default=[],
        help="name or address that clients use (default: [gate] address, or this host's own); --page takes several "
        "addresses, no names",
    )
    parser.add_argument(
        "--link", metavar="DOOR=URL", action="append", default=[], help="with --page: what to open after the knock"
    )
    parser.add_argument("--title", metavar="TEXT", help="with --page: its heading (default: the gate's name)")
    add_config(parser)


def run(args: argparse.Namespace) -> int:
    """Print the doors in the requested format."""
    if args.worker:
        sys.stdout.write(files("doorward.page").joinpath("worker.js").read_text(encoding="utf-8"))
        return 0
    if not args.page and (args.sequence or args.link or args.title is not None):
        raise UsageError(
            "option-needs-page", "--sequence, --link and --title are for --page; add it, or leave them out"
        )
    path = configuration_path(args)
    configuration = read(path)
    doors = [_door(configuration, name, str(path)) for name in dict.fromkeys(args.doors)]
    if not doors:
        raise UsageError("no-door", f"share: no door given; the doors of {path} are {_names(configuration)}")
    if args.page:
        sys.stdout.write(_page(args, configuration, doors, path))
        return 0
    if len(doors) > 1 or len(args.host) > 1:
        raise UsageError("one-door", "share: only --page takes several doors or addresses; share one after the other")
    (door,) = doors
    address = _address(next(iter(args.host), None), configuration, door)
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
        hint = suggestion(name, doors) or f"its doors are {_names(configuration)}"
        raise UsageError("unknown-door", f"{file}: unknown door {name!r}; {hint}")
    return doors[name]


def _names(configuration: Configuration) -> str:
    return ", ".join(door.name for door in configuration.doors[:10])


def _page(args: argparse.Namespace, configuration: Configuration, doors: list[Door], path: Path) -> str:
    try:
        links = dict(map(parse_link, args.link))
    except InvalidValueError as error:
        raise UsageError(error.code, f"--link: {error}") from None
    for name in links:
        _door(configuration, name, str(path))
    key = None if args.sequence else _server_key(configuration, path)
    if key is not None and not configuration.is_for_browsers:
        error_line(f"doorward: {path}: without `browser = true` in [signed] this gate drops the page's knocks")
    page = build_page(configuration, key, doors, _addresses(args.host), links, args.title)
    names = ("page.html", "page.css", "doorward.mjs", "qr.mjs", "sequence.mjs", "page.mjs")
    template, style, *scripts = (files("doorward.page").joinpath(name).read_text(encoding="utf-8") for name in names)
    return render(page, PageFiles(template, style, tuple(scripts)))


def _server_key(configuration: Configuration, path: Path) -> ServerKey:
    if configuration.signed is None:
        remedy = "add [signed], or use --sequence"
        raise UsageError("page-needs-signed", f"{path}: a page sends signed knocks; {remedy}")
    return read_private_key(key_path(configuration.signed, path.absolute().parent)).public


def _addresses(given: Iterable[str]) -> list[Address]:
    """Return the addresses to knock at: browsers do not resolve names for that."""
    try:
        addresses = [parse_address(text) for text in dict.fromkeys(given)]
    except ValueError as error:
        raise UsageError("page-needs-address", f"--host: {error}; a page needs addresses, not names") from None
    if not addresses and (own := survey.survey_host().address()) is not None:
        addresses = [own]
    if not addresses:
        raise UsageError("page-needs-address", "this host has no address that clients can reach; use --host ADDRESS")
    return addresses


def _address(given: str | None, configuration: Configuration, door: Door) -> str:
    if given is not None:
        return client_setup.validate_address(given)
    if door.target is not None:
        return str(door.target)
    return configuration.gate.address or str(survey.survey_host().address() or survey.host_name())


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
