"""Parse OpenSSH user certificates (PROTOCOL.certkeys). Pure.

Not by `cryptography`, which supports no certificates for security keys, nor signed by them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from doorward.config.diagnostics import shown
from doorward.errors import InvalidValueError, MalformedError
from doorward.signed import address_patterns
from doorward.signed.address_patterns import AddressPatterns
from doorward.signed.credential import utc_text
from doorward.signed.ssh_keys import BadSignatureError, PublicKey, parse_public_key, verify_data
from doorward.signed.ssh_wire import SshReader, string

MAX_PRINCIPALS = 256  # as OpenSSH
_ENDING = b"-cert-v01@openssh.com"
_USER = 1

# Number of fields after the kind; sk- kinds end with their own @openssh.com.
_FIELDS = {
    b"ssh-ed25519": 1,
    b"ecdsa-sha2-nistp256": 2,
    b"ecdsa-sha2-nistp384": 2,
    b"ecdsa-sha2-nistp521": 2,
    b"ssh-rsa": 2,
    b"sk-ssh-ed25519": 2,
    b"sk-ecdsa-sha2-nistp256": 3,
}


class Certificate(NamedTuple):
    """A parsed certificate. Only its form has been checked, not its authority or signature.

    `signed` is the signed part. Without principals it names no one.
    """

    key: PublicKey
    authority: PublicKey
    serial: int
    key_id: str
    principals: tuple[str, ...]
    valid_after_s: int
    valid_before_s: int
    sources: AddressPatterns | None
    verify_required: bool
    no_touch_required: bool
    signed: bytes
    signature: bytes

    def rejection(self, now_s: float) -> str:
        """Return why it is not valid at this time (too early, expired, bad signature), or ""."""
        if now_s < self.valid_after_s:
            return f"is not valid before {utc_text(self.valid_after_s)}"
        if now_s >= self.valid_before_s:
            return f"expired on {utc_text(self.valid_before_s)}"
        try:
            verify_data(self.authority, self.signature, self.signed)
        except BadSignatureError as error:
            return f"was not signed by its authority {self.authority.fingerprint_text}: {error}"
        return ""


def parse_certificate(raw: bytes) -> Certificate:
    """Parse a user certificate. MalformedError: not one, or one with unknown critical options."""
    reader = SshReader(raw, "the certificate")
    kind = reader.string()
    name = kind.removesuffix(_ENDING)
    if name not in _FIELDS or not kind.endswith(_ENDING):
        raise MalformedError("unsupported-certificate", "not a certificate of a supported kind")
    reader.string()  # the nonce
    key = _key(name, reader)
    serial, usage = reader.number(8), reader.number(4)
    if usage != _USER:
        raise MalformedError("host-certificate", "a certificate for a host; sign one for a user, without -h")
    key_id = reader.string().decode(errors="replace")
    principals = _principals(reader.string())
    valid_after_s, valid_before_s = reader.number(8), reader.number(8)
    critical, extensions = _options(reader.string()), _options(reader.string())
    reader.string()  # reserved
    authority = parse_public_key(reader.string())
    signed = raw[: reader.offset]
    signature = reader.string()
    reader.expect_end()
    sources, verify_required = _critical(critical)
    return Certificate(
        key, authority, serial, key_id, principals, valid_after_s, valid_before_s,
        sources, verify_required, "no-touch-required" in extensions, signed, signature,
    )  # fmt: skip


def _key(name: bytes, reader: SshReader) -> PublicKey:
    start = reader.offset
    for _ in range(_FIELDS[name]):
        reader.string()
    kind = name + b"@openssh.com" if name.startswith(b"sk-") else name
    return parse_public_key(string(kind) + reader.raw[start : reader.offset])


def _principals(raw: bytes) -> tuple[str, ...]:
    reader = SshReader(raw, "the certificate")
    principals: list[str] = []
    while reader.offset < len(raw):
        principals.append(reader.text())
        if len(principals) > MAX_PRINCIPALS:
            raise MalformedError("too-many-principals", f"a certificate with more than {MAX_PRINCIPALS} principals")
    return tuple(principals)


def _options(raw: bytes) -> dict[str, bytes]:
    options = dict[str, bytes]()
    for name, value in _pairs(SshReader(raw, "the certificate")):
        if name in options:
            raise MalformedError("duplicate-option", f"a certificate with the option {shown(name)} twice")
        options[name] = value
    return options


def _pairs(reader: SshReader) -> Iterator[tuple[str, bytes]]:
    while reader.offset < len(reader.raw):
        yield reader.text(), reader.string()


def _critical(options: dict[str, bytes]) -> tuple[AddressPatterns | None, bool]:
    unknown = options.keys() - {"source-address", "verify-required", "force-command"}
    if unknown:
        raise MalformedError(
            "critical-option", f"a certificate with the critical option {shown(min(unknown))}, which is not supported"
        )
    raw = options.get("source-address")
    return None if raw is None else _sources(raw), "verify-required" in options


def _sources(raw: bytes) -> AddressPatterns:
    reader = SshReader(raw, "the certificate's source-address")
    text = reader.text()
    reader.expect_end()
    try:
        return address_patterns.parse(text, wildcards=False, exceptions=False)
    except InvalidValueError as error:
        raise MalformedError(error.code, f"a certificate with an invalid source-address: {error}") from None
