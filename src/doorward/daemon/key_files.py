"""The key files of signed knocks: the server's key and the authorized keys. The verifier and `check` read them."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import NamedTuple

from doorward.config.files import read_text, trusted_owners
from doorward.config.schema import Configuration, Fwknop, Signed
from doorward.errors import ConfigFault, DoorwardError, MalformedError, UsageError
from doorward.fwknop import keys as fwknop_keys
from doorward.fwknop.authorizer import FwknopAuthorizer
from doorward.kernel.privileges import service_identity
from doorward.signed import authorized_keys
from doorward.signed.authorize import FleetScope, PacketAuthorizer
from doorward.signed.authorized_keys import AuthorizedKeys
from doorward.signed.server_key import X25519, PrivateKey, parse_private_key

FileStamp = tuple[int, int, int] | None


def key_path(signed: Signed, directory: Path) -> Path:
    """Return the path of the server's key; `directory` is the configuration's directory."""
    return directory / signed.key


def keys_path(signed: Signed, directory: Path) -> Path:
    """Return the path of the authorized keys."""
    return directory / signed.authorized_keys


def fwknop_keys_path(fwknop: Fwknop, directory: Path) -> Path:
    """Return the path of the shared keys of fwknop's stanzas."""
    return directory / fwknop.keys


def read_private_key(path: Path) -> PrivateKey:
    """Read the server's key. UsageError: it is missing or invalid, or other users may read it."""
    if not is_there(path):
        raise UsageError("no-server-key", f"{path}: no server key; create it with `doorward key server`")
    text = read_text(path, trusted_owners())
    if _is_exposed(path):
        raise UsageError(
            "server-key-exposed", f"{path}: other users can read the server's key; run `chmod go-r {path}`"
        )
    try:
        return parse_private_key(text)
    except MalformedError as error:
        raise UsageError(
            error.code, f"{path}: {error}; move it away, and `doorward key server` makes another"
        ) from None


def read_server_key(signed: Signed, directory: Path) -> PrivateKey:
    """Read the key that a configuration names. UsageError: as above, or its packets are too long for a browser's."""
    path = key_path(signed, directory)
    key = read_private_key(path)
    if signed.browser and key.public.suite is not X25519:
        raise UsageError(
            "browser-needs-x25519",
            f"{path}: browser = true, and packets for a key of suite {key.public.suite.name} are too long for that; "
            f"move it away and make one with `doorward key server --suite {X25519.name}`, or leave `browser` out",
        )
    return key


def is_there(path: Path) -> bool:
    """Return whether a file exists, or may exist: reading it reports why not."""
    try:
        return path.exists()
    except PermissionError:  # a directory that this user may not enter
        return True


def _is_exposed(path: Path) -> bool:
    """Return whether users besides root and the daemon's can read a file."""
    found = path.stat()
    return bool(found.st_mode & stat.S_IROTH or (found.st_mode & stat.S_IRGRP and found.st_gid not in _own_groups()))


def _own_groups() -> set[int]:
    """Return the groups that may read the key: this process's, and for root those of the daemon's user."""
    daemon = service_identity()
    return {0, os.getegid(), *os.getgroups(), *(daemon.groups if daemon else ())}


def read_authorized_keys(path: Path) -> tuple[AuthorizedKeys, list[ConfigFault]]:
    """Read the authorized keys and the faults of single lines. UsageError, ConfigError: the file is unusable."""
    if not is_there(path):
        raise UsageError(
            "no-authorized-keys",
            f"{path}: no such file; write into it the public keys that may knock, one per line",
        )
    return authorized_keys.parse(read_text(path, trusted_owners()), str(path))


class Authorizers(NamedTuple):
    """What verifies packets, and the faults of single lines; `fwknop` None: no packets of fwknop's clients."""

    signed: PacketAuthorizer
    fwknop: FwknopAuthorizer | None
    faults: list[str]
    fwknop_port: int = 0


def read_authorizers(configuration: Configuration, directory: Path) -> Authorizers:
    """Read all key files; errors as above. `configuration` has `[signed]`.

    Signed knocks are accepted whatever is wrong with the keys of fwknop's stanzas.
    """
    signed, gate = configuration.signed or Signed(), configuration.gate
    key = read_server_key(signed, directory)
    keys, faults = read_authorized_keys(keys_path(signed, directory))
    doors = {door.name: door.for_ms for door in configuration.doors}
    sharing = FleetScope(configuration.fleet.name, _shared_doors(configuration)) if configuration.fleet else None
    authorizer = PacketAuthorizer(key, keys, doors, gate.name, signed.window_ms, sharing)
    texts = list(map(str, faults))
    if configuration.fwknop is None:
        return Authorizers(authorizer, None, texts)
    try:
        fwknop, faults = read_fwknop_keys(configuration, configuration.fwknop, directory)
    except DoorwardError as error:
        return Authorizers(authorizer, None, [f"no packet of fwknop's clients is accepted: {error}", *texts])
    return Authorizers(authorizer, fwknop, texts + list(map(str, faults)), configuration.fwknop.port.number)


def read_fwknop_keys(
    configuration: Configuration, fwknop: Fwknop, directory: Path
) -> tuple[FwknopAuthorizer, list[ConfigFault]]:
    """Read the shared keys of `[fwknop]`, and the faults of stanzas and lines; errors as above."""
    path = fwknop_keys_path(fwknop, directory)
    if not is_there(path):
        remedy = "`doorward import access.conf -o FILE` writes it next to FILE"
        raise UsageError("no-fwknop-keys", f"{path}: there is no file of fwknop's shared keys; {remedy}")
    text = read_text(path, trusted_owners())
    if _is_exposed(path):
        raise UsageError("fwknop-keys-exposed", f"{path}: other users can read the keys; run `chmod go-r {path}`")
    stanzas, faults = fwknop_keys.parse(text, str(path), fwknop.stanzas)
    doors = {door.name: door for door in configuration.doors}
    shared = _shared_doors(configuration) if configuration.fleet else frozenset()
    return FwknopAuthorizer(stanzas, doors, fwknop.window_ms, shared), faults


def _shared_doors(configuration: Configuration) -> frozenset[str]:
    return frozenset(door.name for door in configuration.doors if door.shared)


def file_stamp(path: Path) -> FileStamp:
    """Return a value that changes with the file's content, identity or mode; None if the file is missing."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ctime_ns, found.st_size, found.st_ino
