"""What `doorward init` prints: what it found, what clients need, and what comes next."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from ipaddress import ip_address
from pathlib import Path

from doorward.cli import qr
from doorward.cli.render import line
from doorward.client.links import format_link
from doorward.config.files import default_path
from doorward.config.schema import Configuration, Mode
from doorward.diag.port_list import numbers_of, ranges_of
from doorward.model import Port, Protocol
from doorward.setup import files, sharing
from doorward.setup.host import USUAL_SSH, Host

_TRIAL = "5m"
_ENDS = "ends by itself, unless confirmed"
_ENABLE = "systemctl enable --now doorward-gate doorward"
_WITH_SEQUENCE = "keep it secret: it holds a port sequence, and anyone who knows that can knock"
_WITH_KEY = "not a secret: with the server's public key anyone can have the gate check a packet, and no more"
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
            "",
            "no client can knock yet: write public keys into authorized_keys, or a `knock` for a door, and call this",
            "again",
        )
        return
    link = sharing.link_of(configuration, key, address, doors)
    text = format_link(link)
    line("", f"on each client ({_WITH_SEQUENCE if any(ports for _, ports in link.doors) else _WITH_KEY}):", "")
    knocks = ssh_port(configuration) is not None
    line(f"  doorward add {shlex.quote(text)} --name {shlex.quote(name)}{' --ssh' if knocks else ''}")
    also = f"tells ssh to knock at {name}, and " if knocks else ""
    line("", f"which {also}writes into ~/.config/doorward/hosts.toml:", "")
    for row in sharing.hosts_table(name, link).splitlines():
        line(f"  {row}")
    if _is_private(address):
        line("", f"{address} is an address of a private network: for clients elsewhere call this with --address")
    if configuration.signed is not None and key is None:
        who = files.who_may_knock(configuration, folder)
        line("", f"nobody may send signed knocks yet: write public keys into {who}, and call this again")
    if others:
        line("", f"{others:,} doors more do not fit in the link; `doorward share DOOR` tells of each")
    if as_qr:
        line("")
        qr.draw(text)


def _is_private(address: str) -> bool:
    try:
        return not ip_address(address).is_global
    except ValueError:  # a name
        return False


def tell_next(configuration: Configuration, path: Path, name: str, public: Iterable[Port]) -> None:
    """Print the three commands that come next, and how to see what strangers see; `public` is meant to be seen."""
    is_usual = path == default_path().absolute()
    where = "" if is_usual else f" -c {shlex.quote(str(path))}"
    has_units = is_usual and any(unit.exists() for unit in _UNITS)
    door, called = configuration.doors[0], shlex.quote(name)
    port = next((port.number for port in door.opens if port.protocol is Protocol.TCP), None)
    here = {f"doorward doctor{where}": "what would lock you out, and what is in the way"}
    here |= {_ENABLE: "now, and at every boot"} if has_units else {f"doorward run --trial {_TRIAL}{where}": _ENDS}
    ssh = ssh_port(configuration) if has_units else None
    knock = f"doorward knock {called} {door.name}" + (f" --wait {port}" if port else "")
    here[_ssh(called, ssh) if ssh else knock] = "on the client"
    width = max(map(len, here))
    line("", "next:", "")
    for command, remark in here.items():
        line(f"  {command:<{width}}  # {remark}")
    if has_units:
        line("", "Stay logged in here until that has worked: what is connected stays connected. Or try it first:")
        line(f"`doorward run --trial {_TRIAL}` in place of the second command {_ENDS}.")
    else:
        line("", "If the knock lets you in, run `doorward confirm` there.")
    if configuration.gate.mode is not Mode.OBSERVE:
        words = f" --port {port}" if port else ""
        words += " --guard" if configuration.gate.mode is Mode.GUARD else ""
        seen = ",".join(ranges_of(numbers_of(public, Protocol.TCP)))
        words += f" --expect {seen}" if seen else ""
        line(f"And what a stranger sees, from the client: doorward verify {called} {door.name}{words}")


def ssh_port(configuration: Configuration) -> int | None:
    """Give the port of SSH, where `doorward proxy` finds its door by itself; None: no door is that of SSH."""
    for door in configuration.doors:
        is_named = door.name == "ssh" or (len(configuration.doors) == 1 and USUAL_SSH in door.opens)
        if is_named and (port := next((port for port in door.opens if port.protocol is Protocol.TCP), None)):
            return port.number
    return None


def _ssh(called: str, port: int) -> str:
    return f"ssh {called}" if port == USUAL_SSH.number else f"ssh -p {port} {called}"
