"""Parse and write the file of the shared keys: a line for each stanza, `NAME KEY HMAC-KEY`, both in base64. Pure.

No message shows any part of a key.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence

from doorward.config.diagnostics import shown
from doorward.config.schema import FwknopStanza
from doorward.errors import ConfigFault, InvalidValueError
from doorward.fwknop.authorizer import StanzaKeys
from doorward.model import NAME, SecretBytes

MAX_KEY_BYTES, MAX_HMAC_BYTES = 32, 128  # what fwknop's client takes
HEADER = "# Shared keys of fwknop's clients: secret. Remove a line once its users have signed knocks.\n"
_FORM = "write NAME KEY HMAC-KEY, both keys in base64"


def parse(
    text: str, file: str, stanzas: Sequence[FwknopStanza]
) -> tuple[list[tuple[FwknopStanza, StanzaKeys]], list[ConfigFault]]:
    """Return the stanzas with their keys, and the faults of lines and of stanzas without a usable line."""
    lines, faults = dict[str, tuple[int, StanzaKeys]](), list[ConfigFault]()
    names = {stanza.name for stanza in stanzas}
    for number, line in enumerate(text.split("\n"), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        try:
            keys = _line(words)
            if words[0] in lines:
                raise InvalidValueError("duplicate-entry", "an earlier line names the same stanza; remove one of them")
            if words[0] not in names:  # not shown: it may be a key whose name is missing
                raise InvalidValueError("unknown-stanza", "the configuration has no such stanza; remove the line")
        except InvalidValueError as error:
            what, _, remedy = str(error).rpartition("; ")
            faults.append(ConfigFault(error.code, file, number, what, remedy))
        else:
            lines[words[0]] = number, keys
    usable = []
    for stanza in stanzas:
        number, found = lines.get(stanza.name, (1, None))
        if fault := _fault(stanza, found, file, number):
            faults.append(fault)
        elif found is not None:
            usable.append((stanza, found))
    return usable, faults


def _line(words: Sequence[str]) -> StanzaKeys:
    if not 2 <= len(words) <= 3 or not NAME.fullmatch(words[0]):
        raise InvalidValueError("invalid-line", f"invalid line; {_FORM}")
    key = _decode(words[1], MAX_KEY_BYTES)
    hmac = _decode(words[2], MAX_HMAC_BYTES) if len(words) == 3 else None
    if key == hmac:
        raise InvalidValueError("same-key", "the two keys are the same; both must differ, as with fwknopd")
    return StanzaKeys(key, hmac)


def _decode(word: str, limit: int) -> SecretBytes:
    try:
        key = SecretBytes(base64.b64decode(word, validate=True))
    except (binascii.Error, ValueError):
        raise InvalidValueError("invalid-base64", f"a key is not base64; {_FORM}") from None
    if not 1 <= len(key) <= limit:
        raise InvalidValueError("key-length", f"a key has {len(key)} bytes; fwknop's have 1 to {limit}")
    return key


def _fault(stanza: FwknopStanza, keys: StanzaKeys | None, file: str, number: int) -> ConfigFault | None:
    """Return the fault if a stanza cannot be used with these keys."""
    name = shown(stanza.name)
    if keys is None:
        return ConfigFault("no-key", file, number, f"no key for stanza {name}, whose packets are rejected", _FORM)
    if keys.hmac is None and not stanza.insecure_no_hmac:
        what = f"stanza {name} has no HMAC key, so nothing proves who sent a packet"
        remedy = "add an HMAC key here and at its clients, or write insecure_no_hmac = true"
        return ConfigFault("no-hmac", file, number, what, remedy)
    if keys.hmac is not None and stanza.insecure_no_hmac:
        what = f"stanza {name} has an HMAC key and insecure_no_hmac"
        return ConfigFault("hmac-unused", file, number, what, "remove insecure_no_hmac")
    return None


def format_file(keys: Mapping[str, StanzaKeys]) -> str:
    """Return the text of the file, which is secret."""
    return HEADER + "".join(
        " ".join([name, *(base64.b64encode(key).decode() for key in pair if key is not None)]) + "\n"
        for name, pair in keys.items()
    )
