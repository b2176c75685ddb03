"""The key files of signed knocks: the server's key and the authorized keys. The verifier and `check` read them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from doorward.config.files import read_text, trusted_owners
from doorward.config.schema import Configuration, Signed
from doorward.errors import ConfigFault, MalformedError, UsageError
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


def read_private_key(path: Path) -> PrivateKey:
    """Read the server's key. UsageError: it is missing or invalid, or other users may read it."""
    if not is_there(path):
        raise UsageError("no-server-key", f"{path}: there is no server's key; `doorward key server` makes it")
    text = read_text(path, trusted_owners())
    found = path.stat()
    if found.st_mode & stat.S_IROTH or (found.st_mode & stat.S_IRGRP and found.st_gid not in _own_groups()):
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


def _own_groups() -> set[int]:
    """Return the groups that may read the key: this process's, and for root those of the daemon's user."""
    daemon = service_identity()
    return {0, os.getegid(), *os.getgroups(), *(daemon.groups if daemon else ())}


def read_authorized_keys(path: Path) -> tuple[AuthorizedKeys, list[ConfigFault]]:
    """Read the authorized keys and the faults of single lines. UsageError, ConfigError: the file is unusable."""
    if not is_there(path):
        raise UsageError(
            "no-authorized-keys",
            f"{path}: there is no such file; write a public key of who may knock into it, a line each",
        )
    return authorized_keys.parse(read_text(path, trusted_owners()), str(path))


def read_authorizer(configuration: Configuration, directory: Path) -> tuple[PacketAuthorizer, list[ConfigFault]]:
    """Read both files; errors as above. `configuration` has `[signed]`."""
    signed, gate = configuration.signed or Signed(), configuration.gate
    key = read_server_key(signed, directory)
    keys, faults = read_authorized_keys(keys_path(signed, directory))
    doors = {door.name: door.for_ms for door in configuration.doors}
    shared = frozenset(door.name for door in configuration.doors if door.shared)
    sharing = FleetScope(configuration.fleet.name, shared) if configuration.fleet is not None else None
    return PacketAuthorizer(key, keys, doors, gate.name, signed.window_ms, sharing), faults


def file_stamp(path: Path) -> FileStamp:
    """Return a value that changes with the file's content, identity or mode; None if the file is missing."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ctime_ns, found.st_size, found.st_ino
