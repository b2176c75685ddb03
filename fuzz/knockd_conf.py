"""knockd.conf, up to the doorward.toml that `doorward import` makes of it."""

from __future__ import annotations

from doorward.config import toml
from doorward.config.files import decode_text
from doorward.config.knockd import parse
from doorward.config.toml import load
from doorward.errors import ConfigError
from doorward.importer.from_knockd import convert
from fuzz import faults
from fuzz.firewall_commands import service


def one(data: bytes) -> None:
    """Read a file; one without faults becomes TOML with the same number of doors, or fewer where two had one knock."""
    try:
        configuration = parse(decode_text(data, "f"), "f")
    except ConfigError as error:
        faults.check(error, data)
        return
    assert all(bool(door.knock) != (door.one_time_file is not None) for door in configuration.doors)
    converted = convert(configuration, "f", service)
    assert 1 <= len(load(converted.toml, "f")["doors"]) <= len(configuration.doors)
    try:
        toml.parse(converted.toml, "f")
    except ConfigError as error:
        for fault in error.faults:  # the two that the notes tell of, and what knockd took without a look
            assert "no knock" in fault.what or "interfaces" in fault.what or "on_" in fault.what, fault
