"""Requirements of a configuration on its host: `doorward run` does not start without them, and `check` reports them.

Both use the same list, so that a file that passes the check also starts.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from doorward.config.files import group_id
from doorward.config.schema import Configuration
from doorward.config.toml_positions import Keys
from doorward.kernel.sock_diag import require_unbound
from doorward.model import Port


class Requirement(NamedTuple):
    """`look` raises a DoorwardError where it is not met; `place` is the setting that asks for it."""

    place: Keys
    look: Callable[[], object]


def of(configuration: Configuration, directory: Path, held: Collection[Port] = ()) -> Iterator[Requirement]:
    """List the requirements; the files that the configuration names are relative to `directory`.

    `held`: ports that the daemon has bound itself, to confirm signed knocks.
    """
    gate, signed, fleet, fwknop = configuration.gate, configuration.signed, configuration.fleet, configuration.fwknop
    yield Requirement(("gate", "control_group"), lambda: group_id(gate.control_group))
    if signed is not None:
        from doorward.daemon.key_files import keys_path, read_authorized_keys, read_server_key

        yield Requirement(("signed", "key"), lambda: read_server_key(signed, directory))
        yield Requirement(("signed", "authorized_keys"), lambda: read_authorized_keys(keys_path(signed, directory)))
        yield Requirement(("signed", "port"), lambda: require_unbound(configuration.confirming_ports, held))
    if fwknop is not None:
        from doorward.daemon.key_files import read_fwknop_keys

        yield Requirement(("fwknop", "keys"), lambda: read_fwknop_keys(configuration, fwknop, directory))
    if fleet is not None:
        from doorward.fleet.etcd import read_access  # with `ssl`, likewise

        yield Requirement(("fleet",), lambda: read_access(fleet, directory))
