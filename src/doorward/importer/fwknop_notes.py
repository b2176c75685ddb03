"""Notes on what of an access.conf has no counterpart, or works differently. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from doorward.config.diagnostics import shown
from doorward.importer.fwknop_conf import Include, Stanza
from doorward.importer.toml_writer import ImportNote
from doorward.model import Port

_GPG = {"GPG_DECRYPT_ID", "GPG_DECRYPT_PW", "GPG_ALLOW_NO_PW", "GPG_REMOTE_ID", "GPG_FINGERPRINT_ID"}


def file_notes(includes: Sequence[Include], signed_port: Port) -> Iterator[ImportNote]:
    """Yield the notes on the file as a whole."""
    for include in includes:
        yield ImportNote(
            None, True, f"line {include.line} includes {shown(include.path)}: import it too, and merge the results"
        )
    yield ImportNote(
        None,
        True,
        "fwknop's clients go on as before, with the keys of access.conf; for signed knocks, `doorward key server` "
        "creates the server key, and the users' public SSH keys go into authorized_keys next to this file, one per "
        "line, as shown at each stanza",
    )
    yield ImportNote(
        None,
        True,
        f"fwknopd.conf is not read: both go to {signed_port}; if fwknop's clients use another port, write it as `port` "
        "below [fwknop], and if PCAP_INTF names one interface, as `interfaces` below [gate]",
    )
    yield ImportNote(
        None,
        False,
        "stricter: fwknop's packets may name any address (fwknop -a); a signed knock opens for its own source, unless "
        'the user\'s line also has addresses="…"',
    )


def stanza_notes(stanza: Stanza, *, is_command: bool) -> Iterator[tuple[bool, str]]:
    """Yield the notes on settings of a stanza that have no counterpart or work differently; True: check it."""
    yield from _access(stanza, is_command=is_command)
    yield from _network(stanza)
    yield from _keys(stanza)


def _access(stanza: Stanza, *, is_command: bool) -> Iterator[tuple[bool, str]]:
    if stanza.source_required:
        what = "with signed knocks REQUIRE_SOURCE_ADDRESS is a client setting: without NAT in between, "
        yield False, f'{what}`from = "auto"` in its hosts.toml puts the address into every packet'
    if stanza.username is not None:
        yield (
            False,
            "REQUIRE_USERNAME checks a name that the sender wrote; a signed knock proves who sent it",
        )
    if stanza.runs_commands:
        yield (
            True,
            "ENABLE_CMD_EXEC: a packet carried the command to run, and such packets are rejected. Write a door with "
            "`on_open` for each command that is needed",
        )
    if is_command and stanza.restrict_ports:
        yield True, "RESTRICT_PORTS limited what a packet could ask for; the door does one thing only"


def _network(stanza: Stanza) -> Iterator[tuple[bool, str]]:
    if stanza.destinations:
        yield True, "laxer: DESTINATION has no counterpart; knocks to every address of this host count"
    if stanza.translation is None and "FORCE_MASQUERADE" in stanza.flags:
        yield False, "FORCE_MASQUERADE: without FORCE_NAT nothing is forwarded"
    if "FORCE_SNAT" in stanza.named:
        yield True, "FORCE_SNAT: write it permanently into your own firewall, or masquerade = true here"
    if stanza.flags & {"FORWARD_ALL", "DISABLE_DNAT"}:
        yield (
            True,
            "FORWARD_ALL, DISABLE_DNAT: a door opens only the ports that it names and never forwards everything",
        )


def _keys(stanza: Stanza) -> Iterator[tuple[bool, str]]:
    if stanza.signers:
        yield (
            True,
            f"GPG_REMOTE_ID, GPG_FINGERPRINT_ID: {len(stanza.signers)} signers; each needs a line with an SSH key",
        )
    elif stanza.named & _GPG:
        yield False, "GnuPG keys: SSH keys replace them"
    if stanza.flags & {"GPG_DISABLE_SIG", "GPG_IGNORE_SIG_VERIFY_ERROR"}:
        yield False, "stricter: not all of its signatures were verified; now every one is"
