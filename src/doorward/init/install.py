"""Write the missing files of a configuration with the right owners; existing files are left as they are."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from doorward.config.files import read_text
from doorward.config.schema import Configuration, Signed
from doorward.daemon.key_files import key_path, keys_path, read_authorized_keys, read_private_key
from doorward.errors import ConfigFault, DoorwardError, HostError, UsageError
from doorward.kernel import atomic_file
from doorward.kernel.atomic_file import FileOwnership
from doorward.kernel.privileges import service_identity
from doorward.signed import authorized_keys
from doorward.signed.server_key import X25519, generate_private_text

AUTHORIZED_KEYS_HEADER = "# SSH public keys that may knock, one per line: docs/people.md.\n"


class ExistingFiles(NamedTuple):
    """The valid lines of an existing file of keys, and the faults of the others."""

    path: Path
    lines: tuple[str, ...]
    faults: tuple[ConfigFault, ...]

    @property
    def text(self) -> str:
        """The text of the new authorized_keys."""
        return f"{AUTHORIZED_KEYS_HEADER}# Copied by `doorward init` from {self.path}.\n" + "".join(
            f"{line}\n" for line in self.lines
        )


def read_keys(path: Path) -> ExistingFiles:
    """Return the keys of a file. UsageError, ConfigError: it is missing, or writable by others."""
    if not path.is_file():
        raise UsageError("no-such-file", f"{path}: no such file; expected a file of SSH public keys, one per line")
    text = read_text(path)
    keys, faults = authorized_keys.parse(text, str(path))
    lines = text.split("\n")
    return ExistingFiles(path, tuple(lines[line.number - 1].strip() for line in keys.lines), tuple(faults))


def first_keys(paths: Iterable[Path]) -> ExistingFiles | None:
    """Return the first file that has a key; missing and unreadable files are skipped."""
    for path in paths:
        try:
            existing = read_keys(path)
        except (DoorwardError, OSError):
            continue
        if existing.lines:
            return existing
    return None


def file_ownership() -> FileOwnership:
    """Return the owner and mode for the files: readable by the service's group, if it exists."""
    identity = service_identity()
    if identity is None:
        return FileOwnership(0o600, os.geteuid(), os.getegid())
    return FileOwnership(0o640, 0, identity.group)


def write(path: Path, text: str) -> bool:
    """Write a file; return False if it already exists. HostError: it cannot be written."""
    with _host_errors(path):
        _make_directory(path.parent)
        return atomic_file.create(path, text, file_ownership())


def _make_directory(directory: Path) -> None:
    """Create the configuration directory as the package does: owned by root, readable by the daemon's group."""
    if directory.exists():
        return
    atomic_file.make_directories(directory.parent, 0o755)
    atomic_file.make_directories(directory, 0o700)
    identity = service_identity()
    if identity is not None:
        os.chown(directory, 0, identity.group)
        directory.chmod(0o750)


def write_signed(configuration: Configuration, directory: Path, keys: str) -> list[Path]:
    """Write the missing files for signed knocks, `keys` as authorized_keys; return the paths written."""
    if configuration.signed is None:
        return []
    key, authorized = key_path(configuration.signed, directory), keys_path(configuration.signed, directory)
    written = []
    if not key.exists() and write(key, generate_private_text(X25519)):
        written.append(key)
    if not authorized.exists() and write(authorized, keys):
        written.append(authorized)
    return written


def authorized_keys_path(configuration: Configuration, directory: Path) -> Path:
    """Return the path of authorized_keys."""
    return keys_path(configuration.signed or Signed(), directory)


def authorized_key_line(configuration: Configuration, directory: Path) -> str | None:
    """Return the server's public key if authorized_keys has any key; errors as in the daemon."""
    if configuration.signed is None:
        return None
    key = read_private_key(key_path(configuration.signed, directory))
    keys, _ = read_authorized_keys(keys_path(configuration.signed, directory))
    return str(key.public) if keys.lines else None


@contextmanager
def _host_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        where = error.filename or path
        raise HostError(
            "unwritable-file", f"{where}: {error.strerror}; run this as a user who may write there"
        ) from None
