"""Collect the facts for the checks. Nothing on the host is changed; what cannot be read is reported."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from doorward.config.schema import Configuration
from doorward.daemon import off_switch, saved_ruleset
from doorward.daemon.control_client import ask, default_path
from doorward.daemon.host_lookups import UNIT_FOLDERS
from doorward.daemon.ledger import ledger_path
from doorward.daemon.ruleset_loader import compile_configuration, memory_bytes
from doorward.doctor.host import Boot, Facts, Network
from doorward.doctor.network import read_network
from doorward.doctor.trace import trace
from doorward.errors import DoorwardError, NegativeResult
from doorward.kernel.forwarding import is_forwarding
from doorward.kernel.owner_rights import owner_rights
from doorward.kernel.sock_diag import listening_ports
from doorward.kernel.ssh_session import ssh_connection
from doorward.nftables.libnftables import NftFirewall
from doorward.shield.libbpf import OBJECTS

_SHIELDED = 6, 1  # the first kernel that the shield is for


def collect_facts(configuration: Configuration, directory: Path) -> Facts:
    """Return the facts about the host, in the caller's network namespace. `directory`: that of the configuration."""
    signed_doors, signed_error = _signed(configuration, directory)
    unread: list[str] = []
    ruleset = compile_configuration(configuration, memory_bytes())
    listening, network, daemon = None, Network((), ()), None
    try:
        listening = listening_ports()
        network = read_network()
    except (DoorwardError, OSError) as error:
        unread.append(str(error))
    with suppress(NegativeResult):
        daemon = daemon_status(unread)
    rejection, session = "", ssh_connection()
    is_table_loaded: bool | None = None
    try:
        nft = NftFirewall()
        is_table_loaded = bool(nft.existing())
        nft.check(ruleset.full_text())
    except DoorwardError as error:
        rejection = str(error)
    return Facts(
        session=session,
        network=network,
        listening=listening,
        trace=trace(configuration, network, session),
        boot=_boot(),
        daemon=daemon,
        is_table_loaded=is_table_loaded,
        is_as_loaded=_is_as_loaded(ruleset.for_boot()),
        rejection=rejection,
        memory_bytes=memory_bytes(),
        conntrack=_conntrack(),
        unread=tuple(unread),
        assigns_helpers=_assigns_helpers(),
        signed_doors=signed_doors,
        signed_error=signed_error,
        off_since=off_since(),
        can_shield=_can_shield(),
        forwarding=frozenset(filter(is_forwarding, (4, 6))),
    )


def off_since() -> str:
    """Return when doorward was switched off, in local time; empty while it is on."""
    since_s = off_switch.off_since_s()
    return "" if since_s is None else f"{datetime.fromtimestamp(since_s, UTC).astimezone():%Y-%m-%d %H:%M:%S}"


def _signed(configuration: Configuration, directory: Path) -> tuple[frozenset[str], str]:
    """Return the doors that at least one key may open by a signed knock, and why signed knocks fail."""
    if configuration.signed is None:
        return frozenset(), ""
    from doorward.daemon.key_files import key_path, keys_path, read_authorized_keys, read_private_key

    try:
        read_private_key(key_path(configuration.signed, directory))
        keys, _ = read_authorized_keys(keys_path(configuration.signed, directory))
    except DoorwardError as error:
        return frozenset(), str(error)
    named = [line.options.doors for line in keys.lines]
    doors = [door.name for door in configuration.doors if any(only is None or door.name in only for only in named)]
    return frozenset(doors), ""


def daemon_status(unread: list[str]) -> dict[str, Any] | None:
    """Return the daemon's answer to `status`, or add the reason to `unread`. NegativeResult: no daemon runs."""
    try:
        status = ask(default_path(), {"command": "status"})
    except NegativeResult:
        raise
    except DoorwardError as error:
        unread.append(str(error))
        return None
    if type(status.get("pid")) is not int:  # it becomes part of a command that root may run
        unread.append(f"{default_path()}: the answer has no process number")
        return None
    return status


def _boot() -> Boot:
    """Return the boot facts from the links that `systemctl enable` creates; systemd need not answer."""
    enabled = {unit.name for directory in UNIT_FOLDERS for unit in _links(Path(directory))}
    return Boot(Path("/run/systemd/system").is_dir(), frozenset(enabled))


def _links(directory: Path) -> Iterator[Path]:
    for kind in ("wants", "requires", "upholds"):
        yield from directory.glob(f"*.{kind}/doorward*.service")


def _is_as_loaded(text: str) -> bool | None:
    with suppress(DoorwardError, OSError), owner_rights(ledger_path().parent):
        return saved_ruleset.read_saved(ledger_path().with_name(saved_ruleset.NAME)).endswith(text)
    return None


def _conntrack() -> tuple[int, int] | None:
    directory = Path("/proc/sys/net/netfilter")
    try:
        now, most = (int((directory / f"nf_conntrack_{word}").read_text()) for word in ("count", "max"))
    except (OSError, ValueError):
        return None
    return now, most


def _can_shield() -> bool:
    version = tuple(map(int, re.findall(r"\d+", platform.release())[:2]))
    return version >= _SHIELDED and OBJECTS[-1].exists()


def _assigns_helpers() -> bool:
    with suppress(OSError):
        return Path("/proc/sys/net/netfilter/nf_conntrack_helper").read_text().strip() == "1"
    return False
