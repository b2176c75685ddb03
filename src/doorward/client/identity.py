"""Select the key that signs a knock: the named one, else the agent's first, else ssh's default files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

from doorward.client import keyfile
from doorward.client.keyfile import key_kind
from doorward.client.signers import Signer, agent_signer, file_signer, signature_bytes
from doorward.client.ssh_agent import NoAgentError, open_agent
from doorward.errors import HostError, MalformedError, UsageError

DEFAULT_FILES = (
    "id_ed25519",
    "id_ecdsa",
    "id_ed25519_sk",
    "id_ecdsa_sk",
    "id_rsa",
)  # in ~/.ssh; the first that exists is used
_CERTIFICATE_FILE = "-cert.pub"


class _Certificate(NamedTuple):
    """A certificate and the key it certifies, as blobs."""

    blob: bytes
    key: bytes


def find_signer(identity: str | None, certificate: str | None, max_bytes: int) -> Signer:
    """Return the signer to use; keys not named are skipped if their signature exceeds `max_bytes`.

    Asks for no passphrase before the signer is used, provided that the public key is available.
    UsageError, HostError: no usable key, with a remedy.
    """
    parsed = None if certificate is None else _read_certificate(os.path.expanduser(certificate))  # noqa: PTH111
    if identity is not None:
        signer = _named_signer(os.path.expanduser(identity), parsed)  # noqa: PTH111
    elif parsed is not None and certificate is not None:
        signer = _certified_signer(os.path.expanduser(certificate), parsed)  # noqa: PTH111
    else:
        signer = _default_signer(max_bytes)
    return signer._replace(certificate=None if parsed is None else parsed.blob)


def _read_certificate(path: str) -> _Certificate:
    from doorward.signed.ssh_certificates import parse_certificate  # 30 ms; only needed with a certificate

    blob, _ = keyfile.parse_public_line(keyfile.read(path), path)
    try:
        return _Certificate(blob, parse_certificate(blob).key.blob)
    except MalformedError as error:
        remedy = f"use the file that `ssh-keygen -s` created, FILE{_CERTIFICATE_FILE}"
        raise UsageError(error.code, f"{path}: {error}; {remedy}") from None


def _named_signer(path: str, certificate: _Certificate | None) -> Signer:
    """Return a signer for the key in a file, through the agent if it has the key."""
    raw = keyfile.read(path)
    blob = keyfile.public_blob(path, raw) if keyfile.is_private(raw) else keyfile.parse_public_line(raw, path)[0]
    if certificate is not None and blob is not None and certificate.key != blob:
        raise UsageError(
            "certificate-mismatch", f"the certificate is for another key than {path}; use the certified key"
        )
    reason = ""
    if blob is not None:
        try:
            if signer := _signer_in_agent(blob, certificate):
                return signer
        except HostError as error:
            reason = f" ({error})"
    if keyfile.is_private(raw):
        return file_signer(path, raw)
    private = path.removesuffix(".pub")
    if private != path and os.path.exists(private):  # noqa: PTH110
        return file_signer(private, keyfile.read(private))
    raise UsageError(
        "key-not-in-agent", f"{path} is a public key that the agent does not have{reason}; `ssh-add` its private key"
    )


def _certified_signer(path: str, certificate: _Certificate) -> Signer:
    """Return a signer for the certified key: the agent's, or the file next to the certificate."""
    try:
        signer = _signer_in_agent(certificate.key, certificate)
    except HostError:
        signer = None
    if signer is not None:
        return signer
    private = path.removesuffix(_CERTIFICATE_FILE)
    if private != path and os.path.exists(private):  # noqa: PTH110
        return _named_signer(private, certificate)
    raise UsageError(
        "key-not-in-agent", f"{path}: the agent does not have the certified key; `ssh-add` it, or add --identity FILE"
    )


def _default_signer(max_bytes: int) -> Signer:
    """Return a signer for the agent's first usable key, else for the first usable default file."""
    try:
        with open_agent() as agent:
            keys = agent.list_keys()
        reason = "the agent has no key (add one with `ssh-add`; unlock a locked agent with `ssh-add -X`)"
    except HostError as error:
        keys, reason = [], str(error)
    for key in keys:
        if 0 < signature_bytes(key.blob) <= max_bytes:
            return agent_signer(key, key.blob)
    if keys:
        kinds = ", ".join(sorted({key_kind(key.blob) for key in keys}))
        reason = f"none of the agent's keys can be used ({kinds}; use --certificate FILE for a certificate)"
    for path in _default_paths():
        raw = keyfile.read(path)
        blob = keyfile.public_blob(path, raw)
        if blob is None or 0 < signature_bytes(blob) <= max_bytes:
            return file_signer(path, raw)
    raise HostError(
        "no-usable-key",
        f"no key to sign with: {reason}\nand ~/.ssh has no usable key: {', '.join(DEFAULT_FILES)}\n"
        "make one with `ssh-keygen -t ed25519`, or name one with --identity FILE",
    )


def _default_paths() -> Iterator[str]:
    directory = os.path.expanduser("~/.ssh")  # noqa: PTH111
    return (path for name in DEFAULT_FILES if os.path.exists(path := f"{directory}/{name}"))  # noqa: PTH110


def _signer_in_agent(blob: bytes, certificate: _Certificate | None) -> Signer | None:
    """Return a signer for the agent's copy of this key or certificate; None if it has neither, or there is no agent."""
    try:
        with open_agent() as agent:
            keys = agent.list_keys()
    except NoAgentError:
        if os.environ.get("SSH_AUTH_SOCK"):
            raise
        return None
    blobs = {blob} if certificate is None else {blob, certificate.blob}
    match = next((key for key in keys if key.blob in blobs), None)
    return None if match is None else agent_signer(match, blob)
