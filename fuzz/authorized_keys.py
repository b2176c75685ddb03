"""The file of those who may knock."""

from __future__ import annotations

from datetime import UTC, datetime
from ipaddress import ip_address

from doorward.signed.authorized_keys import parse
from doorward.signed.credential import Credential
from doorward.signed.message import signer_hash
from doorward.signed.ssh_keys import Presence

SOURCE, ASKED = ip_address("203.0.113.7"), ip_address("2001:db8::7")


def one(data: bytes) -> None:
    """Read a file: each line with something on it lets somebody in, or has a fault, and never both."""
    text = data.decode(errors="replace")
    keys, faults = parse(text, "f", lambda moment: moment.replace(tzinfo=UTC).timestamp())
    written = {number for number, line in enumerate(text.split("\n"), 1) if line.strip(" \t\r")[:1] not in ("", "#")}
    good, bad = {line.number for line in keys.lines}, {fault.line for fault in faults}
    assert (good | bad, good & bad) == (written, set())
    assert [fault.line for fault in faults] == sorted(fault.line for fault in faults)
    for fault in faults:
        assert fault.what, fault
        assert fault.instead, fault
        assert str(fault).isprintable(), fault
    for line in keys.lines:
        found = keys.find(signer_hash(line.key.blob), b"", 0)
        if isinstance(found, Credential):
            _ask(found)


def _ask(found: Credential) -> None:
    assert found.name.isprintable()
    now_s = datetime(2026, 7, 1, tzinfo=UTC).timestamp()
    for asked in (None, SOURCE, ASKED):
        assert found.rejection("ssh", SOURCE, asked, now_s).isprintable()
    assert found.presence_rejection(Presence(touched=False, verified=False)).isprintable()
    assert 0 < found.granted_ms(None, 30_000) <= 30_000
    assert found.granted_ms(1 << 32, 30_000) >= found.granted_ms(1, 30_000)
