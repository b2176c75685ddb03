"""Gather what the judgements look at. Nothing on the host is changed, and what cannot be read is told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from doorward.capture.listening import listening_ports
from doorward.config.schema import Configuration
from doorward.daemon import kept
from doorward.daemon.control import ask, default_path
from doorward.daemon.loading import compile_configuration, memory_bytes
from doorward.doctor.host import Boot, Facts, Network
from doorward.doctor.network import read_network
from doorward.doctor.trace import trace
from doorward.errors import AnswerNo, DoorwardError
from doorward.gate.nft import NftFilter
from doorward.ledger import ledger_path
from doorward.session import ssh_connection

_UNITS = ("/etc/systemd/system", "/run/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system")


def gather(configuration: Configuration, folder: Path) -> Facts:
    """Look at the whole host, in the network namespace of the caller. `folder`: the configuration's."""
    signed_doors, signed_trouble = _signed(configuration, folder)
    unread: list[str] = []
    ruleset = compile_configuration(configuration, memory_bytes())
    listening, network, daemon = None, Network((), ()), None
    try:
        listening = listening_ports()
        network = read_network()
    except (DoorwardError, OSError) as error:
        unread.append(str(error))
    with suppress(AnswerNo):
        daemon = _status(unread)
    refusal, stands, session = "", False, ssh_connection()
    try:
        nft = NftFilter()
        stands = bool(nft.existing())
        nft.check(ruleset.whole())
    except DoorwardError as error:
        refusal = str(error)
    return Facts(
        session=session,
        network=network,
        listening=listening,
        trace=trace(configuration, network, session),
        boot=_boot(),
        daemon=daemon,
        table_stands=stands,
        is_as_loaded=_is_as_loaded(ruleset.for_boot()),
        refusal=refusal,
        memory_bytes=memory_bytes(),
        conntrack=_conntrack(),
        unread=tuple(unread),
        signed_doors=signed_doors,
        signed_trouble=signed_trouble,
    )


def _signed(configuration: Configuration, folder: Path) -> tuple[frozenset[str], str]:
    """Tell which doors some key may open by a signed knock, and why none is taken."""
    if configuration.signed is None:
        return frozenset(), ""
    from doorward.daemon.signed_files import key_path, keys_path, read_authorized_keys, read_private_key

    try:
        read_private_key(key_path(configuration.signed, folder))
        keys, _ = read_authorized_keys(keys_path(configuration.signed, folder))
    except DoorwardError as error:
        return frozenset(), str(error)
    named = [line.options.doors for line in keys.lines]
    doors = [door.name for door in configuration.doors if any(only is None or door.name in only for only in named)]
    return frozenset(doors), ""


def _status(unread: list[str]) -> dict[str, Any] | None:
    try:
        return ask(default_path(), {"command": "status"})
    except AnswerNo:
        raise
    except DoorwardError as error:
        unread.append(str(error))
        return None


def _boot() -> Boot:
    """Look for the links that `systemctl enable` makes; systemd itself need not answer."""
    enabled = {unit.name for folder in _UNITS for unit in _links(Path(folder))}
    return Boot(Path("/run/systemd/system").is_dir(), frozenset(enabled))


def _links(folder: Path) -> Iterator[Path]:
    for kind in ("wants", "requires", "upholds"):
        yield from folder.glob(f"*.{kind}/doorward*.service")


def _is_as_loaded(text: str) -> bool | None:
    with suppress(DoorwardError, OSError):
        return kept.text(ledger_path().with_name(kept.NAME)).endswith(text)
    return None


def _conntrack() -> tuple[int, int] | None:
    folder = Path("/proc/sys/net/netfilter")
    try:
        now, most = (int((folder / f"nf_conntrack_{word}").read_text()) for word in ("count", "max"))
    except (OSError, ValueError):
        return None
    return now, most
