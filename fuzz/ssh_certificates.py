"""OpenSSH certificates, up to what authorized_keys makes of them; the corpus's authorities are in AUTHORITIES."""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from pathlib import Path

from doorward.errors import MalformedError
from doorward.signed.authorized_keys import AuthorizedKeys, parse
from doorward.signed.ssh_certificates import parse_certificate

AUTHORITIES = Path(__file__).parent / "ssh_authorities"
NOW_S = 1_782_907_200  # 1 July 2026


def one(data: bytes) -> None:
    """Look for a certificate's holder: there is one only where the authority signed, for alice, and in time."""
    found = _keys().find(b"", data or b"\0", NOW_S)
    if isinstance(found, str):
        assert found.isprintable()
        with suppress(MalformedError):
            parse_certificate(data)
        return
    certificate = parse_certificate(data)
    assert found.key == certificate.key
    assert found.name.isprintable()
    assert "alice" in certificate.principals
    assert certificate.valid_after_s <= NOW_S < certificate.valid_before_s
    assert certificate.rejection(NOW_S) == ""


@cache
def _keys() -> AuthorizedKeys:
    keys, faults = parse(AUTHORITIES.read_text(), "f")
    assert not faults
    return keys
