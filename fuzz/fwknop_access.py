"""fwknop's access.conf, up to the doorward.toml that `doorward import` makes of it."""

from __future__ import annotations

from datetime import datetime

from doorward.config import toml
from doorward.config.files import decode_text
from doorward.errors import ConfigError
from doorward.fwknop import keys
from doorward.importer.dialect import detect_dialect
from doorward.importer.from_fwknop import convert
from doorward.importer.fwknop_conf import parse
from doorward.model import Port
from doorward.signed import key_options
from fuzz import faults
from fuzz.firewall_commands import service

BEFORE = "in authorized_keys, a line for each of its users: "


def name_of(port: Port) -> str | None:
    """Name a few ports, one of them as no door may be called."""
    return {22: "ssh", 53: "domain", 80: "8080", 443: "a.b"}.get(port.number)


def one(data: bytes) -> None:
    """Read a file; one without faults becomes a configuration, keys and lines that can be read."""
    try:
        text = decode_text(data, "f")
        detect_dialect(text)
        configuration = parse(text, "f")
    except ConfigError as error:
        faults.check(error, data)
        return
    converted = convert(configuration, "f", service, name_of)
    found = toml.parse(converted.toml, "f")
    if found.fwknop is not None:
        stanzas, wrong = keys.parse(converted.keys.decode(), "f", found.fwknop.stanzas)
        assert wrong == []
        assert [stanza.name for stanza, _ in stanzas] == [stanza.name for stanza in found.fwknop.stanzas]
    lines = [note.text.partition(BEFORE)[2] for note in converted.notes if BEFORE in note.text]
    assert len(lines) == len(configuration.stanzas)
    doors = {door.name for door in found.doors}
    for line in lines:
        read = key_options.parse(line, datetime.timestamp)
        assert not read.faults, read.faults
        assert read.options.doors is not None
        assert read.options.doors <= doors
        assert read.rest.startswith("KIND KEY ")
    for note in converted.notes:
        assert str(note).isprintable(), note
