"""One line of authorized_keys: options, key, comment. Pure."""

from __future__ import annotations

import binascii
import re
from typing import NamedTuple

from doorward.config.report import shown
from doorward.errors import MalformedError
from doorward.signed import key_options
from doorward.signed.credential import harmless
from doorward.signed.key_options import LocalTime, Options, Parsed
from doorward.signed.sshkeys import KINDS, PublicKey, parse_public_key

BLANKS = " \t\r"
_LIKE_A_KIND = re.compile(r"(ssh|ecdsa|sk)-[^,=\"]+")  # no option begins so
_CERTIFICATE = re.compile(r".*-cert-v[0-9]+@openssh\.com")
_NEW_KEY = "make a key with ssh-keygen -t ed25519"


class Line(NamedTuple):
    """Where a line stands, and whom it lets in; `name` is the comment, or else the key's fingerprint."""

    number: int
    name: str
    key: PublicKey
    options: Options


def read(number: int, text: str, local_s: LocalTime) -> tuple[Line | None, list[tuple[str, str]]]:
    """Give the line, if it holds a key, and what is wrong with it, as pairs of what and what instead."""
    parsed = Parsed(Options(), text, ())
    first = re.split(r"[ \t]", text, maxsplit=1)[0]
    if first not in KINDS and not _LIKE_A_KIND.fullmatch(first):
        parsed = key_options.parse(text, local_s)
    faults = list(parsed.faults) or _faults_of_meaning(parsed.options)
    if parsed.faults and not parsed.rest:  # where the options end cannot be told
        return None, faults
    try:
        key, comment = _key(parsed.rest)
    except ValueError as error:
        what, _, instead = str(error).rpartition("; ")
        return None, [*faults, (what, instead)]
    return Line(number, harmless(comment) or key.fingerprint_text, key, parsed.options), faults


def _faults_of_meaning(options: Options) -> list[tuple[str, str]]:
    if options.is_authority and options.principals is None:
        what = "cert-authority without principals would let in whomever that authority ever signs for"
        return [(what, 'write principals="alice,ops" too, or principals="*" if you mean it')]
    if options.principals is not None and not options.is_authority:
        return [("principals without cert-authority would mean nothing", "write cert-authority too, or remove it")]
    return []


def _key(rest: str) -> tuple[PublicKey, str]:
    """Read `KIND KEY COMMENT`; ValueError says what is wrong."""
    kind, encoded, comment = [*re.split(r"[ \t]+", rest.strip(BLANKS), maxsplit=2), "", ""][:3]
    if kind not in KINDS:
        raise ValueError(_unknown(kind))
    try:
        key = parse_public_key(binascii.a2b_base64(encoded, strict_mode=True))
    except (binascii.Error, ValueError):  # text that is not ASCII too
        raise ValueError("the key is cut short or changed; copy the whole line of the .pub file") from None
    except MalformedError as error:
        what, _, instead = str(error).partition("; ")
        raise ValueError(f"{what}; {instead or 'copy the whole line of the .pub file'}") from None
    if key.kind != kind:
        raise ValueError(f"the key is of kind {key.kind}, not {kind}; copy the whole line of the .pub file")
    return key, comment


def _unknown(kind: str) -> str:
    if not kind:
        return "no key stands behind the options; write OPTIONS KIND KEY COMMENT, the last three as in the .pub file"
    if kind == "ssh-dss":
        return f"ssh-dss keys are too weak; {_NEW_KEY}"
    if _CERTIFICATE.fullmatch(kind):
        return 'this is a certificate; write the key of its authority, with cert-authority,principals="…" before it'
    if _LIKE_A_KIND.fullmatch(kind):
        return f"keys of kind {shown(kind)} are not known; {_NEW_KEY}"
    return f"{shown(kind)} is no kind of key; write OPTIONS KIND KEY COMMENT, the last three as in the .pub file"
