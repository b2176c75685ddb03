"""Writes what is missing of a configuration and its files, with the right owners; what is there stays as it is."""

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

HEAD = "# Who may knock, a public key a line: docs/signed-knocks.md.\n"


class ExistingFiles(NamedTuple):
    """Lines of a file that may be copied, and what is wrong with the others."""

    path: Path
    lines: tuple[str, ...]
    faults: tuple[ConfigFault, ...]

    @property
    def text(self) -> str:
        """The file of those who may knock."""
        return f"{HEAD}# Copied by `doorward init` from {self.path}.\n" + "".join(f"{line}\n" for line in self.lines)


def read_keys(path: Path) -> ExistingFiles:
    """Read a file of keys. UsageError, ConfigError: it is missing, or others can write it."""
    if not path.is_file():
        raise UsageError(f"{path}: there is no such file; name one with public keys of SSH, a line each")
    text = read_text(path)
    keys, faults = authorized_keys.parse(text, str(path))
    lines = text.split("\n")
    return ExistingFiles(path, tuple(lines[line.number - 1].strip() for line in keys.lines), tuple(faults))


def first_keys(paths: Iterable[Path]) -> ExistingFiles | None:
    """Give the first file that has a key; those that are missing or cannot be taken are passed over."""
    for path in paths:
        try:
            found = read_keys(path)
        except (DoorwardError, OSError):
            continue
        if found.lines:
            return found
    return None


def access() -> FileOwnership:
    """Tell whose the files are: the service's group may read them, where there is one."""
    identity = service_identity()
    if identity is None:
        return FileOwnership(0o600, os.geteuid(), os.getegid())
    return FileOwnership(0o640, 0, identity.group)


def write(path: Path, text: str) -> bool:
    """Write a file unless it is there: then False. HostError: it cannot be written."""
    with _complaining(path):
        _make_folder(path.parent)
        return atomic_file.create(path, text, access())


def _make_folder(folder: Path) -> None:
    """Make the configuration's folder as the package does: for root, and the daemon's group to read."""
    if folder.exists():
        return
    atomic_file.make_folders(folder.parent, 0o755)
    atomic_file.make_folders(folder, 0o700)
    identity = service_identity()
    if identity is not None:
        os.chown(folder, 0, identity.group)
        folder.chmod(0o750)


def write_signed(configuration: Configuration, folder: Path, keys: str) -> list[Path]:
    """Write the files of signed knocks that are missing, `keys` as who may knock; give those that were written."""
    if configuration.signed is None:
        return []
    key, who = key_path(configuration.signed, folder), keys_path(configuration.signed, folder)
    made = []
    if not key.exists() and write(key, generate_private_text(X25519)):
        made.append(key)
    if not who.exists() and write(who, keys):
        made.append(who)
    return made


def who_may_knock(configuration: Configuration, folder: Path) -> Path:
    """Give the file of those who may send signed knocks."""
    return keys_path(configuration.signed or Signed(), folder)


def authorized_key_line(configuration: Configuration, folder: Path) -> str | None:
    """Give the public half of the server's key, where anybody may knock with it; errors as the daemon finds them."""
    if configuration.signed is None:
        return None
    key = read_private_key(key_path(configuration.signed, folder))
    keys, _ = read_authorized_keys(keys_path(configuration.signed, folder))
    return str(key.public) if keys.lines else None


@contextmanager
def _complaining(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        where = error.filename or path
        raise HostError(f"{where}: {error.strerror}; call this with the right to write there") from None
