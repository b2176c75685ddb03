"""What `doorward init` prints: what it found, what clients need, and what comes next."""

from __future__ import annotations

import shlex
from ipaddress import ip_address
from pathlib import Path

from doorward.cli import qr
from doorward.cli.render import line
from doorward.client.links import format_link
from doorward.config.files import default_path
from doorward.config.schema import Configuration
from doorward.model import Protocol
from doorward.setup import files, sharing
from doorward.setup.host import Host

_TRIAL = "5m"
_UNITS = [Path(folder, "doorward.service") for folder in ("/etc/systemd/system", "/usr/lib/systemd/system")]


def describe(here: Host) -> None:
    """Show who listens, and where the host is reached."""
    session = here.session.destination_port if here.session is not None else 0
    line("this host, as others reach it:")
    for port, program in here.services:
        is_way_in = port.protocol is Protocol.TCP and port.number == session
        line(f"  {port!s:<10} {program:<16}{'you are logged in by it' if is_way_in else ''}".rstrip())
    if not here.services:
        line("  nothing listens")
    for local in here.network.locals:
        if not (local.address.is_loopback or local.address.is_link_local or local.interface == "lo"):
            line(f"  {local.interface:<10} {local.address.ip}")
    line("")


def tell_clients(configuration: Configuration, folder: Path, address: str, name: str, *, as_qr: bool) -> None:
    """Print what clients need: the command with the link, and what it writes."""
    key = files.told_key(configuration, folder)
    doors, others = sharing.doors_of(configuration, signed=key is not None)
    if not doors:
        line(
            "\nno client can knock yet: write public keys into authorized_keys, or a `knock` for a door, and call this"
        )
        line("again")
        return
    link = sharing.link_of(configuration, key, address, doors)
    text = format_link(link)
    line("\non each client (keep it secret: whoever has it may knock):\n")
    line(f"  doorward add {shlex.quote(text)} --name {shlex.quote(name)}")
    line("\nwhich writes into ~/.config/doorward/hosts.toml:\n")
    for row in sharing.hosts_table(name, link).splitlines():
        line(f"  {row}")
    if _is_private(address):
        line(f"\n{address} is an address of a private network: for clients elsewhere call this with --address")
    if configuration.signed is not None and key is None:
        who = files.who_may_knock(configuration, folder)
        line(f"\nnobody may send signed knocks yet: write public keys into {who}, and call this again")
    if others:
        line(f"\n{others:,} doors more do not fit in the link; `doorward share DOOR` tells of each")
    if as_qr:
        line("")
        qr.draw(text)


def _is_private(address: str) -> bool:
    try:
        return not ip_address(address).is_global
    except ValueError:  # a name
        return False


def tell_next(configuration: Configuration, path: Path, name: str) -> None:
    """Print the three commands that come next."""
    where = "" if path == default_path().absolute() else f" -c {shlex.quote(str(path))}"
    door = configuration.doors[0]
    port = next((port for port in door.opens if port.protocol is Protocol.TCP), None)
    knock = f"doorward knock {shlex.quote(name)} {door.name}" + (f" --wait {port.number}" if port else "")
    here = {
        f"doorward doctor{where}": "what would lock you out, and what is in the way",
        f"doorward run --trial {_TRIAL}{where}": "ends by itself, unless confirmed",
        knock: "on the client",
    }
    width = max(map(len, here))
    line("\nnext:\n")
    for command, remark in here.items():
        line(f"  {command:<{width}}  # {remark}")
    line("\nIf the knock lets you in, run `doorward confirm` there.")
    if any(unit.exists() for unit in _UNITS):
        line("From then on, and at boot: systemctl enable --now doorward-gate.service doorward.service")
