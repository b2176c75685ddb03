"""Replace the daemon's configuration file, with the caller's privileges."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from doorward.cli import output
from doorward.config.files import MAX_BYTES, PathComponent, find_unsafe, open_safe_directory, trusted_owners
from doorward.daemon import last_good
from doorward.daemon.control_client import ask, default_path
from doorward.errors import DoorwardError, HostError, UsageError
from doorward.kernel.atomic_file import FileOwnership, fill

_NEW_MODE = 0o600  # for a new configuration: it contains sequences


def save_last_good(config: Path) -> None:
    """Save the file as the last good copy if it is in force; report why if that fails."""
    try:
        last_good.keep(config, ask(default_path(), {"command": "status"}).get("digest", ""))
    except DoorwardError as error:
        output.error_line(f"doorward: the last good copy was not saved: {error}")


class Installation:
    """Replaces `config` by a new text, prepared as FILE.new; the replaced text goes to FILE.before.

    The directory is opened once and all paths are relative to it; HostError if other users could change its contents.
    Symbolic links are not followed, and permissions are checked on the descriptor that is read.
    """

    def __init__(self, config: Path) -> None:
        self.config = config
        self.new = config.with_name(f"{config.name}.new")
        self.backup = config.with_name(f"{config.name}.before")
        with self._host_errors():
            self._directory = open_safe_directory(config)

    def close(self) -> None:
        """Close the directory."""
        os.close(self._directory)

    def prepare(self, text: str) -> None:
        """Write the text to FILE.new. HostError if that fails."""
        with self._host_errors():
            self._write(self.new, text.encode(), self._access())

    def check(self, digest: str) -> None:
        """Check that FILE.new has this SHA-256 and can be installed. UsageError or HostError otherwise."""
        with self._host_errors():
            with self._open(self.new) as file:
                raw = file.read(MAX_BYTES + 1)
            if not os.access(".", os.W_OK, dir_fd=self._directory):
                raise HostError(
                    "no-permission",
                    f"{self.config}: permission denied; run `doorward confirm` as the user who ran `apply`",
                )
        if hashlib.sha256(raw).hexdigest() != digest:
            raise UsageError(
                "trial-file-changed", f"{self.new} is no longer the file on trial; run `doorward apply` again"
            )

    def finish(self) -> None:
        """Replace the configuration by FILE.new atomically, and save the old text as FILE.before."""
        with self._host_errors():
            with suppress(FileNotFoundError), self._open(self.config) as file:
                backup_new = self.config.with_name(f"{self.backup.name}.new")
                self._write(backup_new, file.read(), _file_ownership(file))
                self._rename(backup_new, self.backup)
            self._rename(self.new, self.config)

    def discard(self) -> None:
        """Remove FILE.new."""
        with suppress(OSError):
            os.unlink(self.new.name, dir_fd=self._directory)

    def _open(self, path: Path) -> BinaryIO:
        """Open a file for reading. HostError if other users could change it, or if it is not a regular file."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # do not block on a FIFO
        file = os.fdopen(os.open(path.name, flags, dir_fd=self._directory), "rb")
        info = os.fstat(file.fileno())
        entry = PathComponent(str(path), info.st_uid, info.st_mode, is_directory=False)
        unsafe = find_unsafe([entry], trusted_owners())
        if unsafe is not None or not stat.S_ISREG(info.st_mode):
            file.close()
            if unsafe is not None:
                raise HostError(unsafe.code, f"{path}: {unsafe.fault}; {unsafe.remedy}")
            raise HostError("not-regular-file", f"{path}: this is not a regular file; move it away")
        return file

    def _access(self) -> FileOwnership:
        """Return the owner and mode of the configuration, or the defaults for a new one."""
        with suppress(FileNotFoundError), self._open(self.config) as file:
            return _file_ownership(file)
        return FileOwnership(_NEW_MODE, os.geteuid(), os.getegid())

    def _write(self, path: Path, raw: bytes, access: FileOwnership) -> None:
        with suppress(FileNotFoundError):
            os.unlink(path.name, dir_fd=self._directory)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        handle = os.open(path.name, flags, _NEW_MODE, dir_fd=self._directory)
        fill(handle, raw, access)

    def _rename(self, source: Path, destination: Path) -> None:
        """Rename within the directory, and sync it so that the change survives a power loss."""
        os.rename(source.name, destination.name, src_dir_fd=self._directory, dst_dir_fd=self._directory)
        os.fsync(self._directory)

    @contextmanager
    def _host_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            where = self.config.parent / error.filename if error.filename else self.config
            if error.errno == errno.ELOOP:
                remedy = "name its target with -c FILE, here and to `doorward run`"
                raise HostError(
                    "symbolic-link", f"{where}: this is a symbolic link, which is not replaced; {remedy}"
                ) from None
            raise HostError(
                "unwritable-file", f"{where}: {error.strerror}; run this as a user who can write there"
            ) from None


def _file_ownership(file: BinaryIO) -> FileOwnership:
    info = os.fstat(file.fileno())
    return FileOwnership(stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid)


def check_config_path(config: Path, status: dict[str, Any]) -> None:
    """Check that the daemon reports running with this file; UsageError if it names another.

    A compromised daemon must not choose which file root replaces.
    """
    if (reported := status.get("config")) != str(config):
        raise UsageError(
            "other-file-in-force",
            f"{config}: not replaced, since the daemon reports running with {reported!r};"
            " name the daemon's file with -c FILE, or start the daemon with this one",
        )
