"""What of access.conf has no counterpart, or another one, and why: notes for the operator."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from doorward.config.convert_text import Note
from doorward.config.fwknop import Include, Stanza
from doorward.config.report import shown
from doorward.model import Port

_HMAC = {"HMAC_KEY", "HMAC_KEY_BASE64", "%include_keys"}  # a file of keys may hold one
_GPG = {"GPG_DECRYPT_ID", "GPG_DECRYPT_PW", "GPG_ALLOW_NO_PW", "GPG_REMOTE_ID", "GPG_FINGERPRINT_ID"}
_NETWORK = {"FORCE_SNAT", "FORCE_MASQUERADE"}


def general(includes: Sequence[Include], signed_port: Port) -> Iterator[Note]:
    """Say what holds for the whole file."""
    for include in includes:
        yield Note(
            None, True, f"line {include.line} includes {shown(include.path)}: import that too, and join the results"
        )
    yield Note(
        None,
        True,
        "the keys in access.conf have no use here, and are not copied: `doorward key server` makes the server's key, "
        "and the users' public SSH keys go into authorized_keys beside this file, a line each, as told at each door",
    )
    yield Note(
        None,
        True,
        f"fwknopd.conf is not read: signed knocks go to {signed_port}; if PCAP_INTF names one interface, write it as "
        "`interfaces` below [gate]",
    )
    yield Note(
        None,
        False,
        "stricter: a packet could open for any address that it named (fwknop -a); now only for the one that it comes "
        'from, unless the user\'s line says addresses="…" as well',
    )
    yield Note(None, False, "better: the server holds public keys only, so that whoever steals its files opens nothing")


def without_counterpart(name: str, stanza: Stanza, *, is_command: bool) -> Iterator[Note]:
    """Say of one stanza what is other than it was."""
    for check, text in (*_access(stanza, is_command=is_command), *_network(stanza), *_keys(stanza)):
        yield Note(name, check, text)


def _access(stanza: Stanza, *, is_command: bool) -> Iterator[tuple[bool, str]]:
    if stanza.source_required:
        what = (
            'REQUIRE_SOURCE_ADDRESS is the client\'s to do: `from = "auto"` in its hosts.toml, where nothing translates'
        )
        yield False, f"{what} addresses, puts the address into every packet"
    if stanza.username is not None:
        yield False, "REQUIRE_USERNAME asked for a word that the sender wrote; the key proves now who it is"
    if stanza.runs_commands:
        yield (
            True,
            "ENABLE_CMD_EXEC: a packet carried the command that was run; a signed knock names a door, and no "
            "command. Write a door with `on_open` for each command that is needed",
        )
    if is_command and stanza.restrict_ports:
        yield True, "RESTRICT_PORTS limited what a packet could ask for; the door does one thing only"


def _network(stanza: Stanza) -> Iterator[tuple[bool, str]]:
    if stanza.destinations:
        yield True, "laxer: DESTINATION has no counterpart; knocks to every address of this host count"
    if stanza.translation is not None:
        where = f"{stanza.translation.address} port {stanza.translation.port}"
        yield (
            True,
            f"FORCE_NAT: doorward translates nothing. Write the translation to {where} into your own firewall, for "
            "good: the door decides who gets as far as that",
        )
    if stanza.named & _NETWORK or stanza.flags & _NETWORK:
        yield True, "FORCE_SNAT, FORCE_MASQUERADE: write them into your own firewall, for good"
    if stanza.flags & {"FORWARD_ALL", "DISABLE_DNAT"}:
        yield (
            True,
            "FORWARD_ALL, DISABLE_DNAT: a door opens the ports that it names, and never a way through for everything",
        )


def _keys(stanza: Stanza) -> Iterator[tuple[bool, str]]:
    if stanza.signers:
        yield (
            True,
            f"GPG_REMOTE_ID, GPG_FINGERPRINT_ID: {len(stanza.signers)} signers; each needs a line with an SSH key",
        )
    elif stanza.named & _GPG:
        yield False, "GnuPG keys: SSH keys take their place"
    if stanza.flags & {"GPG_DISABLE_SIG", "GPG_IGNORE_SIG_VERIFY_ERROR"}:
        yield False, "better: its signatures were not, or not all, verified; now every one is"
    if not stanza.named & _HMAC:
        yield False, "better: packets without an HMAC were decrypted unseen; now every packet is checked first"
