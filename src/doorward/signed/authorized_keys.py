"""Parse authorized_keys: sshd's format, with doorward's options (`key_options`). Pure.

An invalid line authorizes no key; the other lines still apply. Finding a key takes one look-up, whatever the number of
lines; a certificate takes one for its authority and one for each of its principals. A packet names its signer by the
first 12 bytes of the SHA-256 of the key or certificate, so the keys of two lines may not have them in common.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from doorward.config.diagnostics import shown
from doorward.errors import ConfigError, ConfigFault, InvalidValueError, MalformedError
from doorward.signed import key_options
from doorward.signed.credential import Credential, printable_name
from doorward.signed.key_options import ANY, Fault, KeyOptions, LocalTime, ParsedOptions
from doorward.signed.message import HASH_BYTES, certified_hash, signer_hash
from doorward.signed.ssh_certificates import Certificate, parse_certificate
from doorward.signed.ssh_keys import KINDS, PublicKey, parse_public_key
from doorward.signed.ssh_wire import fingerprint_text

BLANKS = " \t\r"
_LIKE_A_KIND = re.compile(r"(ssh|ecdsa|sk)-[^,=\"]+")  # no option begins like this
_CERTIFICATE = re.compile(r".*-cert-v[0-9]+@openssh\.com")
_NEW_KEY = "make a key with ssh-keygen -t ed25519"


class Line(NamedTuple):
    """A valid line: number, key and options; `name` is the comment, or else the key's fingerprint."""

    number: int
    name: str
    key: PublicKey
    options: KeyOptions


def read(number: int, text: str, local_s: LocalTime) -> tuple[Line | None, list[Fault]]:
    """Parse one line; return it, if it has a key, and its faults."""
    parsed = ParsedOptions(KeyOptions(), text, ())
    first = re.split(r"[ \t]", text, maxsplit=1)[0]
    if first not in KINDS and not _LIKE_A_KIND.fullmatch(first):
        parsed = key_options.parse(text, local_s)
    faults = list(parsed.faults) or _semantic_faults(parsed.options)
    if parsed.faults and not parsed.rest:  # the end of the options is unknown
        return None, faults
    try:
        key, comment = _key(parsed.rest)
    except InvalidValueError as error:
        what, _, instead = str(error).rpartition("; ")
        return None, [*faults, (error.code, what, instead)]
    return Line(number, printable_name(comment) or key.fingerprint_text, key, parsed.options), faults


def _semantic_faults(options: KeyOptions) -> list[Fault]:
    if options.is_authority and options.principals is None:
        what = "cert-authority without principals would accept every certificate of that authority"
        return [("unlimited-authority", what, 'add principals="alice,ops", or principals="*" to accept them all')]
    if options.principals is not None and not options.is_authority:
        return [
            (
                "principals-without-authority",
                "principals has no effect without cert-authority",
                "add cert-authority, or remove it",
            )
        ]
    return []


def _key(rest: str) -> tuple[PublicKey, str]:
    """Parse `KIND KEY COMMENT`; ValueError describes the fault."""
    kind, encoded, comment = [*re.split(r"[ \t]+", rest.strip(BLANKS), maxsplit=2), "", ""][:3]
    if kind not in KINDS:
        raise InvalidValueError("unknown-key-kind", _unknown_kind(kind))
    try:
        key = parse_public_key(binascii.a2b_base64(encoded, strict_mode=True))
    except (binascii.Error, ValueError):  # also for text that is not ASCII
        raise InvalidValueError(
            "damaged-key", "the key is truncated or damaged; copy the whole line of the .pub file"
        ) from None
    except MalformedError as error:
        what, _, instead = str(error).partition("; ")
        raise InvalidValueError(error.code, f"{what}; {instead or 'copy the whole line of the .pub file'}") from None
    if key.kind != kind:
        raise InvalidValueError(
            "key-kind-mismatch", f"the key is of kind {key.kind}, not {kind}; copy the whole line of the .pub file"
        )
    return key, comment


def _unknown_kind(kind: str) -> str:
    if not kind:
        return "no key after the options; write OPTIONS KIND KEY COMMENT, the last three as in the .pub file"
    if kind == "ssh-dss":
        return f"ssh-dss keys are too weak; {_NEW_KEY}"
    if _CERTIFICATE.fullmatch(kind):
        return 'this is a certificate; write the key of its authority, preceded by cert-authority,principals="…"'
    if _LIKE_A_KIND.fullmatch(kind):
        return f"unsupported key kind {shown(kind)}; {_NEW_KEY}"
    return f"unknown key kind {shown(kind)}; write OPTIONS KIND KEY COMMENT, the last three as in the .pub file"


@dataclass(frozen=True, slots=True)
class AuthorizedKeys:
    """Authorized keys by the hash that names a signer, and authorities by fingerprint and principal."""

    file: str
    lines: tuple[Line, ...] = ()
    keys: Mapping[bytes, Credential] = field(default_factory=dict, repr=False)
    authorities: Mapping[bytes, Mapping[str, Line]] = field(default_factory=dict, repr=False)
    faulty: Mapping[bytes, int] = field(default_factory=dict, repr=False)  # keys in invalid lines, by fingerprint
    unusable: Mapping[bytes, str] = field(default_factory=dict, repr=False)  # why other listed keys may not knock

    def door_names(self) -> tuple[tuple[str, int], ...]:
        """Return each name in `doors=` with its line number, to compare with the configured doors."""
        return tuple((name, line.number) for line in self.lines for name in sorted(line.options.doors or ()))

    def find(self, signer: bytes, certificate: bytes, now_s: float) -> Credential | str:
        """Return the credential of a signer, of its certificate if it has one, or why it has none."""
        if certificate:
            return self._find_certified(certificate, now_s)
        return self.keys.get(signer) or self._why_unknown(signer)

    def _why_unknown(self, signer: bytes) -> str:
        name = f"the key {fingerprint_text(signer)}…"
        if signer in self.unusable:
            return f"{name} {self.unusable[signer]}"
        return f"{self.file} does not list {name}"

    def _find_certified(self, raw: bytes, now_s: float) -> Credential | str:
        try:
            certificate = parse_certificate(raw)
        except MalformedError as error:
            return f"invalid certificate: {error}"
        name = f"the certificate {shown(printable_name(certificate.key_id))}"
        line = self._line_for(certificate, name)
        if isinstance(line, str):
            return line
        rejection = certificate.rejection(now_s)
        return f"{name} {rejection}" if rejection else _credential(certificate, line)

    def _line_for(self, certificate: Certificate, name: str) -> Line | str:
        fingerprint = certificate.authority.fingerprint
        by_principal = self.authorities.get(fingerprint)
        if by_principal is None:
            if fingerprint in self.faulty:
                return (
                    f"{name} was signed by the key in line {self.faulty[fingerprint]} of {self.file}, which is invalid"
                )
            authority = fingerprint_text(fingerprint)
            return f"{self.file} has no cert-authority line with the key {authority} that signed {name}"
        accepted = (ANY, *certificate.principals)
        lines = [by_principal[principal] for principal in accepted if principal in by_principal]
        if not lines:
            named = ", ".join(shown(printable_name(principal)) for principal in certificate.principals[:4])
            return (
                f"{name} is for {named or 'no principal'}, which its cert-authority line in {self.file} does not name"
            )
        return min(lines)  # the first in the file, as in sshd


@dataclass(slots=True)
class _LineIndex:
    """The lines parsed so far."""

    lines: dict[bytes, Line] = field(default_factory=dict)
    authorities: dict[bytes, dict[str, Line]] = field(default_factory=dict)
    faulty: dict[bytes, int] = field(default_factory=dict)

    def add(self, line: Line) -> Line:
        """Add a line; return it, or the earlier line that it duplicates."""
        if line.options.principals is None:
            return self.lines.setdefault(signer_hash(line.key.blob), line)
        by_principal = self.authorities.setdefault(line.key.fingerprint, {})
        principals = line.options.principals
        existing = by_principal.keys() if ANY in principals else by_principal.keys() & {*principals, ANY}
        if existing:
            return min(by_principal[principal] for principal in existing)
        by_principal.update(dict.fromkeys(principals, line))
        return line


def parse(text: str, file: str, local_s: LocalTime = datetime.timestamp) -> tuple[AuthorizedKeys, list[ConfigFault]]:
    """Parse the text of the file; the faults are in line order.

    `local_s` converts an `expiry-time` without Z; the default is this host's time zone, as in sshd.
    """
    index = _LineIndex()
    faults: list[ConfigFault] = []
    for number, raw_line in enumerate(text.split("\n"), 1):
        line = raw_line.strip(BLANKS)
        if line and not line.startswith("#"):
            faults += (
                ConfigFault(code, file, number, what, instead)
                for code, what, instead in _add_line(index, number, line, local_s)
            )
    lines = {line.number: line for line in index.lines.values()}
    lines |= {line.number: line for lines_of in index.authorities.values() for line in lines_of.values()}
    keys = {found: Credential(line.name, line.key, line.options) for found, line in index.lines.items()}
    in_order = tuple(lines[number] for number in sorted(lines))
    unusable = {
        found[:HASH_BYTES]: f"is a cert-authority in {file}, which cannot knock itself" for found in index.authorities
    }
    unusable |= {found[:HASH_BYTES]: f"is in line {n} of {file}, which is invalid" for found, n in index.faulty.items()}
    return AuthorizedKeys(file, in_order, keys, index.authorities, index.faulty, unusable), faults


def append_key(text: str, file: str, key: str, options: Mapping[str, str]) -> tuple[str, Line]:
    """Return the text with a key's line at its end, behind these options, and that line. ConfigError: a fault in it.

    `key` is KIND KEY COMMENT, perhaps from someone else: options and further lines in it are rejected.
    """
    before = text if text.endswith("\n") or not text else f"{text}\n"
    number = before.count("\n") + 1
    if not key.isprintable():  # also a line break
        instead = "copy it as one line"
        raise ConfigError([ConfigFault("unprintable-key", file, number, "control characters in the key", instead)])
    kind = key.strip().partition(" ")[0]
    if kind not in KINDS and not _LIKE_A_KIND.fullmatch(kind):
        what = f"{shown(kind[:40])} is not the kind of a key"
        instead = "write KIND KEY NAME, and limit the key with --doors and --for-max"
        raise ConfigError([ConfigFault("no-key-kind", file, number, what, instead)])
    written = ",".join(f'{name}="{value}"' for name, value in options.items())
    after = f"{before}{f'{written} {key.strip()}'.strip()}\n"
    keys, faults = parse(after, file)
    if own := [fault for fault in faults if fault.line == number]:
        raise ConfigError(own)
    *others, added = keys.lines
    if same := _named(added.name, others):  # `revoke` of the name would remove both
        what = f"line {same[0].number} has a key of the same name, {shown(added.name)}"
        instead = "change the name at the end of the key, or remove the other with `doorward revoke`"
        raise ConfigError([ConfigFault("duplicate-name", file, number, what, instead)])
    return after, added


def remove_keys(text: str, file: str, name: str) -> tuple[str, list[Line]]:
    """Return the text without the lines of a name or fingerprint, and these lines; all others are kept as they are.

    A line that was invalid because it repeats one of them goes, too: without them it would be valid.
    """
    kept = dict(enumerate(re.split(r"(?<=\n)", text), 1))
    lines = parse(text, file)[0].lines
    others = {line.number for line in lines} - {line.number for line in _named(name, lines)}
    removed: list[Line] = []
    while found := [line for line in lines if line.number not in others]:
        removed += found
        kept |= {line.number: "\n" for line in found}  # the numbers stay the same
        lines = parse("".join(kept.values()), file)[0].lines
    numbers = {line.number for line in removed}
    return "".join(line for number, line in kept.items() if number not in numbers), removed


def _named(name: str, lines: Iterable[Line]) -> list[Line]:
    """Return the lines of a name or fingerprint."""
    return [line for line in lines if name in (line.name, line.key.fingerprint_text)]


def _add_line(index: _LineIndex, number: int, text: str, local_s: LocalTime) -> list[Fault]:
    line, faults = read(number, text, local_s)
    if line is None:
        return faults
    if faults:
        index.faulty.setdefault(line.key.fingerprint, number)
        return faults
    first = index.add(line)
    if first is line:
        return []
    if first.key != line.key:
        what = f"the key's SHA-256 has the same first {HASH_BYTES} bytes as that of line {first.number}"
        return [("hash-collision", what, "make another key")]
    what = f"line {first.number} has the same key" + (" and principal" if line.options.is_authority else "")
    return [("duplicate-key", what, "remove one of the two lines")]


def _credential(certificate: Certificate, line: Line) -> Credential:
    options = line.options
    merged = options._replace(
        touch_required=options.touch_required or not certificate.no_touch_required,
        verify_required=options.verify_required or certificate.verify_required,
    )
    name = f"{printable_name(certificate.key_id) or certificate.key.fingerprint_text} (signed by {line.name})"
    signer = certified_hash(certificate.authority.fingerprint, certificate.key_id)
    return Credential(name, certificate.key, merged, certificate.sources, signer)
