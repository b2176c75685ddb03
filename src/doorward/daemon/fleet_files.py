"""The files of a fleet: whom to trust as etcd, and who this gate is to it."""

from __future__ import annotations

import ssl
import stat
import zlib
from pathlib import Path

from doorward.config.files import read_text, trusted_owners
from doorward.config.schema import Fleet
from doorward.errors import UsageError
from doorward.fleet.etcd import Access

_LONGEST_PASSWORD = 1024
_LEAST_S = 1.0  # for everything but signed knocks, which somebody waits for


def read_access(fleet: Fleet, folder: Path, gate: str = "") -> Access:
    """Give how to reach etcd; UsageError where a file is missing, wrong, or open to others.

    Gates begin with different endpoints, each by its name.
    """
    first = zlib.crc32(gate.encode()) % len(fleet.endpoints)
    endpoints = fleet.endpoints[first:] + fleet.endpoints[:first]
    is_encrypted = any(endpoint.startswith("https:") for endpoint in endpoints)
    return Access(
        endpoints,
        max(_LEAST_S, fleet.timeout_ms / 1000),
        _context(fleet, folder) if is_encrypted else None,
        fleet.user,
        _password(folder / fleet.password) if fleet.password else "",
    )


def for_claims(access: Access, fleet: Fleet) -> Access:
    """Give the same for signed knocks, with the patience that the configuration says."""
    return Access(access.endpoints, fleet.timeout_ms / 1000, access.tls, access.user, access.password)


def _context(fleet: Fleet, folder: Path) -> ssl.SSLContext:
    ca = folder / fleet.ca if fleet.ca else None
    try:
        context = ssl.create_default_context(cafile=None if ca is None else str(ca))
    except (OSError, ssl.SSLError) as error:
        raise UsageError(f"{ca}: no certificate of an authority ({_why(error)}); write its PEM file there") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if fleet.certificate:
        certificate, key = folder / fleet.certificate, folder / fleet.key
        _refuse_exposed(key)
        try:
            context.load_cert_chain(certificate, key, password=lambda: "")
        except (OSError, ssl.SSLError) as error:
            what = f"{certificate} and {key}: no certificate with its key ({_why(error)})"
            raise UsageError(f"{what}; write both as PEM, the key without a passphrase") from None
    return context


def _password(path: Path) -> str:
    _refuse_exposed(path)
    password = read_text(path, trusted_owners()).strip()
    if not 1 <= len(password) <= _LONGEST_PASSWORD or not password.isprintable():
        raise UsageError(f"{path}: this is no password; write one line, of at most {_LONGEST_PASSWORD} letters")
    return password


def _refuse_exposed(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; [fleet] names it") from None
    if mode & stat.S_IROTH:
        raise UsageError(f"{path}: other users can read it; run `chmod o-r {path}`")


def _why(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or getattr(error, "reason", None) or error)
