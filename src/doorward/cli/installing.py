"""Putting a configuration in the place of the daemon's own, with the rights of whoever calls."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from doorward import durable
from doorward.daemon import last_good
from doorward.daemon.control import ask, default_path
from doorward.errors import DoorwardError, HostError, UsageError

_NEW_MODE = 0o600  # of a first configuration: it holds sequences


def keep(config: Path) -> None:
    """Keep a copy of the file for a start with a wrong one, if it is in force; say why where that cannot be done."""
    try:
        last_good.keep(config, ask(default_path(), {"command": "status"}).get("digest", ""))
    except DoorwardError as error:
        sys.stderr.write(f"doorward: no copy is kept for a start with a wrong file: {error}\n")


class Installation:
    """A text beside `config` (FILE.new), ready to take its place; what it replaces goes to FILE.before."""

    def __init__(self, config: Path) -> None:
        self.config = config
        self.new = config.with_name(f"{config.name}.new")
        self.before = config.with_name(f"{config.name}.before")

    def prepare(self, text: str) -> None:
        """Write the text beside the file; HostError: nothing can be written there."""
        with self._complaining():
            self._write(self.new, text.encode())

    def check(self, digest: str) -> None:
        """See that what was prepared is the text with this SHA-256, and that it can be installed."""
        with self._complaining():
            found = hashlib.sha256(self.new.read_bytes()).hexdigest()
            if not os.access(self.config.parent, os.W_OK):
                raise HostError(f"{self.config}: this user may not write there; confirm as who applied it")
        if found != digest:
            raise UsageError(f"{self.new} is not what is on trial any more; apply the file that you want once more")

    def finish(self) -> None:
        """Let it take the file's place, whole or not at all."""
        with self._complaining():
            with suppress(FileNotFoundError):
                kept = self.config.with_name(f"{self.before.name}.new")
                self._write(kept, self.config.read_bytes())
                durable.rename(kept, self.before)
            durable.rename(self.new, self.config)

    def forget(self) -> None:
        """Take away what was prepared."""
        with suppress(OSError):
            self.new.unlink()

    def _write(self, path: Path, raw: bytes) -> None:
        """Write a file with the owner and the mode of the configuration."""
        path.unlink(missing_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _NEW_MODE)
        with os.fdopen(handle, "wb") as file:
            with suppress(FileNotFoundError):
                was = self.config.stat()
                if (was.st_uid, was.st_gid) != (os.geteuid(), os.getegid()):
                    os.chown(handle, was.st_uid, was.st_gid)
                os.fchmod(handle, was.st_mode & 0o7777)
            file.write(raw)
            file.flush()
            os.fsync(handle)

    @contextmanager
    def _complaining(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            where = error.filename or self.config
            raise HostError(f"{where}: {error.strerror}; call this with the right to write there") from None
